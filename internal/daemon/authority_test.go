package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// authority is an ACME authority (RFC 8555) with just what getting a
// certificate takes. It checks names over TLS-ALPN-01 as authorities do, but
// connects to one address instead of resolving them, and believes every account.
type authority struct {
	*httptest.Server
	// validate is the address at which names are checked.
	validate string
	root     *x509.Certificate
	key      *ecdsa.PrivateKey

	mu          sync.Mutex
	thumbprints map[string]string // of accounts' keys, by address
	orders      []*acmeOrder
}

type acmeOrder struct {
	// proof is what the server's certificate must hold the digest of.
	name, token, proof string
	cert               []byte
	checked            bool
}

// openACME begins to answer; validate is filled in before the first order.
func openACME(t testing.TB) *authority {
	t.Helper()
	a := &authority{thumbprints: map[string]string{}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.root, err = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}, &a.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/dir", a.directory)
	mux.HandleFunc("/nonce", func(http.ResponseWriter, *http.Request) {})
	for path, do := range map[string]func(message) (any, error){
		"/account": a.account, "/order": a.newOrder, "/order/{n}": a.order, "/authz/{n}": a.authz, "/challenge/{n}": a.challenge, "/finalize/{n}": a.finalize,
		"/cert/{n}": a.certificate,
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { a.answer(w, r, do) })
	}
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Replay-Nonce", rand.Text())
		w.Header().Set("Content-Type", "application/json")
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

// trusted writes the file that makes clients trust the authority's own server.
func (a *authority) trusted(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// names are those certificates were given for, sorted.
func (a *authority) names() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, o := range a.orders {
		if o.cert != nil {
			names = append(names, o.name)
		}
	}
	slices.Sort(names)
	return names
}

// ordered is how many certificates were asked for.
func (a *authority) ordered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.orders)
}

func (a *authority) sign(c *x509.Certificate, key *ecdsa.PublicKey) (*x509.Certificate, error) {
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	c.BasicConstraintsValid = true
	parent := a.root
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (a *authority) directory(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(map[string]string{
		"newNonce": a.URL + "/nonce", "newAccount": a.URL + "/account", "newOrder": a.URL + "/order",
		"revokeCert": a.URL + "/revoke", "keyChange": a.URL + "/key",
	})
}

// message is a request: its signed content, the account's key if it is told,
// and the order it is about.
type message struct {
	header  http.Header // of the reply
	payload []byte
	account string
	jwk     struct{ Crv, Kty, X, Y string }
	order   *acmeOrder
	n       string
}

func (a *authority) answer(w http.ResponseWriter, r *http.Request, do func(message) (any, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, err := a.read(w, r)
	var reply any
	if err == nil {
		reply, err = do(m)
	}
	if err != nil {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		reply = map[string]string{"type": "urn:ietf:params:acme:error:unauthorized", "detail": err.Error()}
	} else if m.header.Get("Location") != "" {
		w.WriteHeader(http.StatusCreated)
	}
	if text, ok := reply.([]byte); ok {
		_, _ = w.Write(text)
		return
	}
	_ = json.NewEncoder(w).Encode(reply)
}

func (a *authority) read(w http.ResponseWriter, r *http.Request) (m message, err error) {
	m.header, m.n = w.Header(), r.PathValue("n")
	if n, err := strconv.Atoi(m.n); err == nil && n < len(a.orders) {
		m.order = a.orders[n]
	} else if m.n != "" {
		return m, errors.New("no such order")
	}
	var jws struct{ Protected, Payload string }
	if err := json.NewDecoder(r.Body).Decode(&jws); err != nil {
		return m, err
	}
	protected, err1 := base64.RawURLEncoding.DecodeString(jws.Protected)
	payload, err2 := base64.RawURLEncoding.DecodeString(jws.Payload)
	m.payload = payload
	return m, errors.Join(err1, err2, json.Unmarshal(protected, &struct{ JWK, KID any }{&m.jwk, &m.account}))
}

func (a *authority) account(m message) (any, error) {
	// RFC 7638: the members in this order and nothing between them.
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, m.jwk.Crv, m.jwk.Kty, m.jwk.X, m.jwk.Y))
	address := a.URL + "/account/" + hex.EncodeToString(sum[:])
	a.thumbprints[address] = base64.RawURLEncoding.EncodeToString(sum[:])
	m.header.Set("Location", address)
	return map[string]string{"status": "valid"}, nil
}

func (a *authority) newOrder(m message) (any, error) {
	var wanted struct{ Identifiers []struct{ Value string } }
	if err := json.Unmarshal(m.payload, &wanted); err != nil || len(wanted.Identifiers) != 1 {
		return nil, fmt.Errorf("one name is to be ordered: %w", err)
	}
	token := rand.Text()
	m.n, m.order = strconv.Itoa(len(a.orders)), &acmeOrder{name: wanted.Identifiers[0].Value, token: token, proof: token + "." + a.thumbprints[m.account]}
	a.orders = append(a.orders, m.order)
	m.header.Set("Location", a.URL+"/order/"+m.n)
	return a.order(m)
}

func (a *authority) order(m message) (any, error) {
	reply := map[string]any{
		"status": "pending", "identifiers": []any{identifier(m)}, "authorizations": []string{a.URL + "/authz/" + m.n}, "finalize": a.URL + "/finalize/" + m.n,
	}
	if m.order.checked {
		reply["status"] = "ready"
	}
	if m.order.cert != nil {
		reply["status"], reply["certificate"] = "valid", a.URL+"/cert/"+m.n
	}
	return reply, nil
}

func identifier(m message) any { return map[string]string{"type": "dns", "value": m.order.name} }

func (a *authority) authz(m message) (any, error) {
	c := a.state(m)
	return map[string]any{"status": c["status"], "identifier": identifier(m), "challenges": []any{c}}, nil
}

func (a *authority) state(m message) map[string]string {
	status := map[bool]string{false: "pending", true: "valid"}[m.order.checked]
	return map[string]string{"type": "tls-alpn-01", "url": a.URL + "/challenge/" + m.n, "token": m.order.token, "status": status}
}

func (a *authority) challenge(m message) (any, error) {
	if err := a.check(m.order); err != nil {
		return nil, err
	}
	m.order.checked = true
	return a.state(m), nil
}

// check connects as RFC 8737 says: the certificate must hold the digest of what
// only the account's owner knows.
func (a *authority) check(o *acmeOrder) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{ServerName: o.name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", a.validate)
	if err != nil {
		return err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	sum := sha256.Sum256([]byte(o.proof))
	want, err := asn1.Marshal(sum[:])
	leaf := state.PeerCertificates[0]
	proves := slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool {
		return e.Id.String() == "1.3.6.1.5.5.7.1.31" && e.Critical && bytes.Equal(e.Value, want)
	})
	if err != nil || state.NegotiatedProtocol != "acme-tls/1" || !slices.Equal(leaf.DNSNames, []string{o.name}) || !proves {
		return errors.New("the server does not answer the challenge")
	}
	return nil
}

func (a *authority) finalize(m message) (any, error) {
	var wanted struct{ CSR string }
	if err := json.Unmarshal(m.payload, &wanted); err != nil {
		return nil, err
	}
	der, err := base64.RawURLEncoding.DecodeString(wanted.CSR)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || !m.order.checked || !slices.Equal(csr.DNSNames, []string{m.order.name}) {
		return nil, errors.New("not what was checked")
	}
	leaf, err := a.sign(&x509.Certificate{
		DNSNames: csr.DNSNames, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key)
	if err != nil {
		return nil, err
	}
	m.order.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	return a.order(m)
}

func (a *authority) certificate(m message) (any, error) {
	m.header.Set("Content-Type", "application/pem-certificate-chain")
	return m.order.cert, nil
}
