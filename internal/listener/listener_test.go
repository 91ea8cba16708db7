package listener_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sandlot-dev/sandlot/internal/listener"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config is a server's with a certificate of its own for 127.0.0.1.
func config(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, &tls.Config{RootCAs: pool}
}

// open listens on a free port. It ends with the test.
func open(t testing.TB, o listener.Options) *listener.Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := listener.New(inner, o)
	t.Cleanup(func() { _ = l.Close() }) // may be closed by the test already
	return l
}

// dial connects, says something, and keeps the connection until the test ends.
func dial(t testing.TB, l net.Listener, says string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, says); err != nil {
		t.Fatal(err)
	}
	return conn
}

func accept(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// awaitCut waits until the other side has ended a connection.
func awaitCut(t testing.TB, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection was not cut off: %v", err)
	}
}

func TestFirstByteDecides(t *testing.T) {
	server, _ := config(t)
	for name, c := range map[string]struct {
		says  string
		isTLS bool
	}{
		"HTTP":            {"GET / HTTP/1.1\r\n\r\n", false},
		"HTTP/2 preface":  {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
		"one byte":        {"G", false},
		"garbage":         {"\x00\xff\x15", false},
		"TLS":             {"\x16\x03\x01\x02\x00", true},
		"TLS, one byte":   {"\x16", true},
		"TLS alert first": {"\x15\x03\x03", false},
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, listener.Options{TLS: server, Patience: time.Minute, Silent: 8})
			dial(t, l, c.says)
			conn := accept(t, l)
			if _, isTLS := conn.(*tls.Conn); isTLS != c.isTLS {
				t.Errorf("handed over as %T", conn)
			}
			if c.isTLS {
				return
			}
			// Nothing was taken from the connection, nor is a deadline left.
			got := make([]byte, len(c.says))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.says {
				t.Errorf("read %q, %v", got, err)
			}
			if _, plain := conn.(*net.TCPConn); !plain {
				t.Errorf("a plain connection became a %T, from which the kernel cannot copy", conn)
			}
		})
	}
}

func TestSilentClientsAreCutOff(t *testing.T) {
	l := open(t, listener.Options{Patience: 50 * time.Millisecond, Silent: 8})
	awaitCut(t, dial(t, l, ""))
}

func TestSilentClientsDoNotBlockOthers(t *testing.T) {
	l := open(t, listener.Options{Patience: time.Minute, Silent: 100})
	for range 50 {
		dial(t, l, "")
	}
	dial(t, l, "G")
	accept(t, l)
}

func TestTheLongestSilentMakesRoom(t *testing.T) {
	l := open(t, listener.Options{Patience: time.Minute, Silent: 2})
	first, second := dial(t, l, ""), dial(t, l, "")
	dial(t, l, "")
	awaitCut(t, first)
	if _, err := io.WriteString(second, "G"); err != nil {
		t.Fatal(err)
	}
	if got, want := accept(t, l).RemoteAddr().String(), second.LocalAddr().String(); got != want {
		t.Errorf("accepted %s, not %s", got, want)
	}
}

func TestClientsThatLeaveAreForgotten(t *testing.T) {
	l := open(t, listener.Options{Patience: time.Minute, Silent: 2})
	for range 20 {
		conn := dial(t, l, "")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	dial(t, l, "G")
	accept(t, l)
}

func TestCloseEndsWaiting(t *testing.T) {
	l := open(t, listener.Options{Patience: time.Minute, Silent: 8})
	silent := dial(t, l, "")
	dial(t, l, "G")
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept() // the one that spoke
		if err == nil {
			_, err = l.Accept()
		}
		accepted <- err
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept returned %v", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close returned %v", err)
	}
	awaitCut(t, silent)
}

// failing fails the first calls of Accept.
type failing struct {
	net.Listener
	left int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left > 0 {
		f.left--
		return nil, errors.New("too many open files")
	}
	return f.Listener.Accept()
}

func TestErrorsOfAcceptAreHandedOver(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := listener.New(&failing{inner, 2}, listener.Options{Patience: time.Minute, Silent: 8})
	defer l.Close()
	dial(t, l, "G")
	for range 2 {
		if conn, err := l.Accept(); err == nil {
			t.Fatalf("accepted %v", conn)
		}
	}
	accept(t, l)
}

func TestUnixSockets(t *testing.T) {
	inner, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l := listener.New(inner, listener.Options{Patience: time.Minute, Silent: 8})
	defer l.Close()
	conn, err := net.Dial("unix", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("G")); err != nil {
		t.Fatal(err)
	}
	accept(t, l)
}

// serve runs net/http behind a listener, as the daemon does.
func serve(t testing.TB, server *tls.Config) string {
	t.Helper()
	l := open(t, listener.Options{TLS: server, Patience: time.Minute, Silent: 64})
	srv := &http.Server{TLSConfig: server, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+map[bool]string{true: "encrypted", false: "plain"}[r.TLS != nil])
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close() // the listener's error is Serve's
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func TestOneServerSpeaksAll(t *testing.T) {
	server, client := config(t)
	addr := serve(t, server)
	old := client.Clone()
	old.MaxVersion = tls.VersionTLS11
	for name, c := range map[string]struct {
		scheme string
		tls    *tls.Config
		h2     bool
		want   string
	}{
		"plain":            {"http", nil, true, "HTTP/1.1 plain"},
		"TLS":              {"https", client, false, "HTTP/1.1 encrypted"},
		"HTTP/2":           {"https", client, true, "HTTP/2.0 encrypted"},
		"TLS 1.1":          {"https", old, false, ""},
		"not trusted":      {"https", nil, true, ""},
		"TLS to 127.0.0.2": {"https", client, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var config *tls.Config
			if c.tls != nil {
				config = c.tls.Clone()
			}
			if strings.Contains(name, "127.0.0.2") {
				config.ServerName = "127.0.0.2"
			}
			tr := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: c.h2}
			defer tr.CloseIdleConnections()
			got := get(t, tr, c.scheme+"://"+addr)
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// get returns the body of an answer, or nothing if there is none.
func get(t testing.TB, tr http.RoundTripper, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// BenchmarkConnection measures what looking at the first byte adds to a
// connection with one plain request.
func BenchmarkConnection(b *testing.B) {
	answer := []byte("HTTP/1.1 204 No Content\r\n\r\n")
	run := func(b *testing.B, l net.Listener) {
		b.Helper()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						_, _ = conn.Write(answer)
					}
				}()
			}
		}()
		buf := make([]byte, len(answer))
		for b.Loop() {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(conn, buf); err != nil {
				b.Fatal(err)
			}
			_ = conn.(*net.TCPConn).SetLinger(0) // ports in TIME_WAIT run out
			conn.Close()
		}
	}
	b.Run("direct", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		run(b, l)
	})
	b.Run("sniffed", func(b *testing.B) {
		run(b, open(b, listener.Options{Patience: time.Minute, Silent: 1024}))
	})
}
