package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/certs"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
	"github.com/sandlot-dev/sandlot/internal/store/memory"
)

// oneBox is a host on which one sandbox runs.
type oneBox struct {
	control.Host
	id sandbox.ID
}

func (h oneBox) Alive(id sandbox.ID) bool { return id == h.id }
func (h oneBox) Launched() []sandbox.ID   { return []sandbox.ID{h.id} }
func (h oneBox) Stats(context.Context, sandbox.ID) (sandbox.Stats, error) {
	return sandbox.Stats{}, nil
}

// serveTLS starts the part of a server that speaks TLS, with one sandbox.
func serveTLS(t *testing.T, cfg config.Config, validate func(addr string)) (addr string, s *system, id sandbox.ID) {
	t.Helper()
	id = sandbox.NewID()
	rows := memory.New()
	if err := rows.PutSandbox(t.Context(), store.Sandbox{ID: id, State: sandbox.Running, StartedAt: time.Now(), EndAt: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	s = &system{cfg: cfg, logger: logger, control: control.New(oneBox{id: id}, nil, rows, control.Options{Logger: logger})}
	t.Cleanup(func() {
		if err := s.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s.onClose(func(context.Context) error { return s.control.Close() })
	if err := s.control.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.openCerts(t.Context()); err != nil {
		t.Fatal(err)
	}
	ln, err := listen(t.Context(), cfg.Addr)
	if err != nil {
		t.Fatal(err)
	}
	validate(ln.Addr().String())
	if err := s.startACME(t.Context(), ln); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler(), TLSConfig: s.tlsConfig(), ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(share(ln, srv.TLSConfig)) }()
	s.onClose(func(context.Context) error { defer func() { <-done }(); return srv.Close() })
	return ln.Addr().String(), s, id
}

// openName opens a name as a client does that trusts one root only.
func openName(ctx context.Context, addr, name string, root *x509.Certificate) error {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots}}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// The names of a domain get certificates of the authority, whose checks arrive
// at the one listener: the server's own before anybody asks, a sandbox's when
// somebody opens it, and no others.
func TestACME(t *testing.T) {
	a := openACME(t)
	cfg := config.Default()
	cfg.Addr, cfg.Domain, cfg.DataDir = "127.0.0.1:0", "x.example", t.TempDir()
	cfg.TLS.ACME, cfg.TLS.ACMECA, cfg.TLS.ACMERoot = true, a.URL+"/dir", a.trusted(t)
	addr, s, id := serveTLS(t, cfg, func(addr string) { a.validate = addr })
	want := []string{"api.x.example", "x.example"}
	for end := time.Now().Add(30 * time.Second); !slices.Equal(a.names(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("at start there were certificates for %q", a.names())
		}
	}
	box := string(id) + ".x.example"
	for _, name := range []string{"x.example", "api.x.example", "8000-" + box, "8000-" + box, "8001-" + box} {
		if err := openName(t.Context(), addr, name, a.root); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{
		"8000-" + string(sandbox.NewID()) + ".x.example", "8002-" + string(id) + "-more.x.example", "www.x.example", "8002-" + string(id) + ".other.example",
	} {
		if err := openName(t.Context(), addr, name, a.root); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
	local, err := certs.ReadRoot(s.path(caDir))
	if err != nil {
		t.Fatal(err)
	}
	if err := openName(t.Context(), addr, "8000-"+string(id)+".localhost", local); err != nil {
		t.Errorf("below localhost: %v", err)
	}
	want = append([]string{"8000-" + box, "8001-" + box}, want...)
	if diff := cmp.Diff(want, a.names()); diff != "" || a.ordered() != len(want) {
		t.Errorf("%d orders, certificates (-want +got):\n%s", a.ordered(), diff)
	}
}
