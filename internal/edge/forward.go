package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// interpreterPort is where the SDKs look for the code interpreter. They send it
// the sandbox's access token, which no other port is to see.
const interpreterPort = 49999

// keyPrefix is what the control plane's keys begin with.
const keyPrefix = "e2b_"

// continueTimeout is how long a client that asked is let wait before it sends
// its body, to servers that do not know "Expect: 100-continue".
const continueTimeout = time.Second

// portTransport makes a connection for each request: users' servers close idle
// ones when they like, and a request that meets such an end cannot be sent again
// if it has a body. DisableKeepAlives would announce that by "Connection:
// close", whereupon servers that answer without reading the body reset the
// connection.
func (e *Edge) portTransport() *http.Transport {
	return &http.Transport{
		DialContext:           e.dial,
		DisableCompression:    true, // bodies pass as they are
		ExpectContinueTimeout: continueTimeout,
		// A program's headers are its own affair up to here.
		MaxResponseHeaderBytes: 128 << 10,
		MaxIdleConnsPerHost:    -1,
		TLSHandshakeTimeout:    10 * time.Second,
		// What is inside a sandbox has no name that a certificate could be checked
		// against, and the way there is a socket of this machine.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"},
	}
}

// errDial marks that nothing was sent, since no connection came about.
var errDial = errors.New("no connection")

// dial connects to the target that rewrite put into the URL's host.
func (e *Edge) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	conn, err := e.dialTarget(ctx, addr)
	if err != nil {
		return nil, errors.Join(errDial, err)
	}
	return conn, nil
}

func (e *Edge) dialTarget(ctx context.Context, addr string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	// The connection would serve no other request: dials that outlive theirs would
	// pile up beyond every bound.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request := callOf(ctx).ctx
	defer context.AfterFunc(request, func() { cancel(context.Cause(request)) })()
	conn, err := e.dialer.DialPort(ctx, sandbox.ID(host), uint16(port))
	if body := callOf(ctx).body; err == nil && body != nil {
		conn = portConn{conn, body}
	}
	return conn, err
}

// portConn is a connection over which a body goes. When it ends without a reply,
// net/http waits for whoever reads the body, which a client may never send.
type portConn struct {
	net.Conn
	body *requestBody
}

// Close closes the connection.
func (c portConn) Close() error {
	err := c.Conn.Close()
	if !c.body.answered.Load() {
		c.body.interrupt()
	}
	return err
}

// answered notes that the program's reply has begun.
func answered(res *http.Response) error {
	if body := callOf(res.Request.Context()).body; body != nil {
		body.answered.Store(true)
	}
	return nil
}

// rewrite makes the request that goes inside.
func rewrite(p *httputil.ProxyRequest) {
	c := callOf(p.In.Context())
	p.Out.URL.Scheme = "http"
	p.Out.URL.Host = net.JoinHostPort(string(c.id), strconv.Itoa(int(c.port)))
	p.Out.Host = p.In.Host
	// The copy has the announced names only; their values come with the body's
	// end and into this map.
	p.Out.Trailer = p.In.Trailer
	toPort(p, c)
}

// toAgent forwards a request to the agent, which reads the path that was checked.
func (e *Edge) toAgent(w http.ResponseWriter, r *http.Request, c *call) {
	drop := []string{keyHeader}
	if c.signed {
		// A signature covers the user of the query and nothing else; who has it
		// must not choose another.
		drop = append(drop, "Authorization")
		if _, named := parseHost(r.Host); !named && r.Header.Get(idHeader) == "" {
			w = apart{w}
		}
	}
	if err := e.agents.Forward(w, r, string(c.id), drop...); err != nil {
		e.proxyFailed(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)), err)
	}
}

func toPort(p *httputil.ProxyRequest, c *call) {
	if slices.Contains(c.sandbox.HTTPSPorts, c.port) {
		p.Out.URL.Scheme = "https"
	}
	if mask := c.sandbox.MaskHost; mask != "" {
		p.Out.Host = strings.ReplaceAll(mask, sandbox.PortPlaceholder, strconv.Itoa(int(c.port)))
	}
	p.SetXForwarded()
	// A query is the program's affair, also one that Go cannot parse.
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	hideSecrets(p.Out.Header, c)
}

// hideSecrets takes out what the platform's client says to the platform. Headers
// of the same names that mean something to the program inside stay.
func hideSecrets(h http.Header, c *call) {
	h.Del(trafficHeader)
	if slices.ContainsFunc(h[keyHeader], isKey) {
		h.Del(keyHeader)
	}
	own := func(token string) bool { return equal(token, c.sandbox.AccessToken) }
	if c.port != interpreterPort && slices.ContainsFunc(h[tokenHeader], own) {
		h.Del(tokenHeader)
	}
}

func isKey(value string) bool { return strings.HasPrefix(value, keyPrefix) }

// buffers lends the proxy its copying buffers.
type buffers struct{ pool sync.Pool }

const bufferSize = 64 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
