package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/internal/api"
	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/edge"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/node"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/template"
)

// The names of the files by which the command line finds the server.
const (
	serverFile = "server.json"
	keyFile    = "api-key"
)

// Limits on clients: slow or greedy ones must not hold the server's memory.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second // of the API
	answerTimeout = 30 * time.Second // of the API
	idleTimeout   = 2 * time.Minute
	drainTimeout  = 3 * time.Second
	// maxHeaderBytes is what Node allows, too. In memory a header of many short
	// lines is some twenty times as large.
	maxHeaderBytes = 16 << 10
	// maxStreams bounds the requests of one HTTP/2 connection at once.
	maxStreams = 100
)

// Daemon is the server-side half of the command line. Its zero value is ready.
type Daemon struct{}

// version is this build's, as the Server header and server.json tell it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// Serve runs a server until ctx ends. Words go to stderr; the lines a shell can
// evaluate go to stdout once the server answers.
func (d Daemon) Serve(ctx context.Context, cfg config.Config, stdout, stderr io.Writer) error {
	if err := EnterPrivateMounts(); err != nil {
		return err
	}
	logger := newLogger(cfg, stderr)
	// net/http complains about a hostile agent past every logger it is given.
	log.SetFlags(0)                                                              //nolint:forbidigo // see above
	log.SetOutput(slog.NewLogLogger(logger.Handler(), slog.LevelDebug).Writer()) //nolint:forbidigo // see above
	ln, err := listen(ctx, cfg.Addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	s, err := open(ctx, cfg, logger, serving)
	if err != nil {
		return err
	}
	s.domain = cfg.PublishedDomain(port(ln))
	err = d.run(ctx, s, ln, console{stdout, stderr})
	return errors.Join(err, s.close(context.WithoutCancel(ctx)))
}

type console struct{ out, words io.Writer }

func (d Daemon) run(ctx context.Context, s *system, ln net.Listener, c console) error {
	base, err := ensureBase(ctx, s, c.words)
	if err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	key, err := s.ensureKey(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(s.startACME(ctx, ln), s.startDNS(ctx)); err != nil {
		return err
	}
	s.node.Warm(base)
	url := baseURL(ln.Addr())
	if err := s.announce(url); err != nil {
		return err
	}
	clients := crowd{most: int64(descriptorsOver(clientShare))}
	srv := &http.Server{
		Handler:           d.handler(s),
		ConnState:         clients.watch,
		TLSConfig:         s.tlsConfig(),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(share(ln, srv.TLSConfig)) }()
	greet(c, url, key, s)
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.farewell(c.words)
	return drain(ctx, srv)
}

// drain lets requests under way finish, but not streams that never do.
func drain(ctx context.Context, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return srv.Close()
}

// handler puts the sandboxes' edge in front of the API.
func (d Daemon) handler(s *system) http.Handler {
	rest := api.New(api.Options{Control: s.control, Logger: s.logger, Version: version()})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if edge.Handles(r) {
			// What an API request before it on this connection was given.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
			s.edge.ServeHTTP(w, r)
			return
		}
		w, r = prompt(w, r)
		rest.ServeHTTP(w, withPool(w, r))
	})
}

// withPool lets a client pass the pool by, and tells it whether it was used;
// for measuring.
func withPool(w http.ResponseWriter, r *http.Request) *http.Request {
	const header = "X-Sandlot-Pool"
	ctx := node.WithSource(r.Context(), func(fromPool bool) {
		w.Header().Set(header, map[bool]string{true: "hit", false: "miss"}[fromPool])
	})
	if r.Header.Get(header) == "bypass" {
		ctx = node.WithoutPool(ctx)
	}
	return r.WithContext(ctx)
}

func listen(ctx context.Context, addr string) (ln net.Listener, err error) {
	var lc net.ListenConfig
	err = awaitLeftover(syscall.EADDRINUSE, func() (err error) { ln, err = lc.Listen(ctx, "tcp", addr); return err })
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, errs.New(errs.Conflict, "address %s is in use", addr).
			WithHint("if a sandlot server runs there already, use that one; otherwise stop what does, or choose another with --addr")
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "cannot listen on %s", addr)
	}
	return ln, nil
}

// ensureKey returns the key of the command line, which lies in a file beside the
// data. A file that is missing, or whose key was revoked, gets a new key: whoever
// can read the file is root here, and must not be locked out.
func (s *system) ensureKey(ctx context.Context) (string, error) {
	path := s.path(keyFile)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read API key: %w", err)
	}
	key := strings.TrimSpace(string(data))
	if _, err := s.control.Authenticate(key); err == nil {
		return key, nil
	}
	if len(s.control.Keys()) > 0 || key == "" { // else the server died between the file and the registry
		key = control.NewKeyText()
		if err := atomicfile.Write(path, []byte(key+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("write API key: %w", err)
		}
	}
	_, err = s.control.AdoptKey(ctx, "command line of this machine", key)
	return key, err
}

// announce tells the command line where the server is, until it ends.
func (s *system) announce(url string) error {
	data, err := json.Marshal(map[string]any{"url": url, "pid": os.Getpid(), "version": version()})
	if err != nil {
		return err
	}
	path := s.path(serverFile)
	if err := atomicfile.Write(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("announce server: %w", err)
	}
	s.onClose(func(context.Context) error { return os.Remove(path) })
	return nil
}

func greet(c console, url, key string, s *system) {
	fmt.Fprintf(c.words, "sandlot is ready at %s: data in %s (%s), %s running\n\n",
		url, s.cfg.DataDir, s.uppers.Describe(), count(len(s.node.Launched()), "sandbox", "es"))
	fmt.Fprintf(c.out, "export E2B_API_URL=%s\nexport E2B_SANDBOX_URL=%s\nexport E2B_VOLUME_API_URL=%s\nexport E2B_API_KEY=%s\n", url, url, url, key)
	fmt.Fprintf(c.out, "export NODE_EXTRA_CA_CERTS='%s'\n", strings.ReplaceAll(s.ca.RootPath(), "'", `'\''`))
	if !isTerminal(c.out) {
		return // a program reads it
	}
	fmt.Fprintf(c.words, "\nPaste these lines into the shell of your E2B program, or run there: eval \"$(%[1]s env)\"\nTry: %[1]s run -- python3 -c 'print(1)'\n\n", os.Args[0])
}

// count writes a number with its noun.
func count(n int, noun, plural string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %s%s", n, noun, plural)
}

func (s *system) farewell(w io.Writer) {
	switch n := len(s.node.Launched()); n {
	case 0:
		fmt.Fprintln(w, "\nstopping; no sandbox is running")
	case 1:
		fmt.Fprintln(w, "\nstopping; 1 sandbox goes on running and the next start finds it (to end it: sandlot serve --stop-all)")
	default:
		fmt.Fprintf(w, "\nstopping; %d sandboxes go on running and the next start finds them (to end them: sandlot serve --stop-all)\n", n)
	}
}

// ensureBase builds the base template if there is none, with a progress line.
func ensureBase(ctx context.Context, s *system, w io.Writer) (t sandbox.Template, err error) {
	line := progressLine{w: w}
	t, err = s.templates.EnsureBase(ctx, line.report)
	line.end()
	if err != nil {
		return t, fmt.Errorf("build base template: %w", err)
	}
	return t, nil
}

// progressLine rewrites one line on a terminal, and prints a line per stage
// elsewhere.
type progressLine struct {
	w     io.Writer
	stage string
	shown bool
}

func (p *progressLine) report(u template.Progress) {
	if isTerminal(p.w) {
		fmt.Fprintf(p.w, "\r\033[Kbuilding the base template: %3.0f%% %s %s", u.Percent, u.Stage, u.Detail)
		p.shown = true
		return
	}
	if u.Stage != p.stage {
		p.stage = u.Stage
		fmt.Fprintf(p.w, "building the base template: %3.0f%% %s %s\n", u.Percent, u.Stage, u.Detail)
	}
}

func (p *progressLine) end() {
	if p.shown {
		fmt.Fprintln(p.w)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
