// Package agent is the server inside a sandbox: the whole data plane, which is
// processes, files and ports, over HTTP/1.1 on one unix socket. It runs as
// process 1 and root of the sandbox, and does no authentication: only the host
// can reach the socket, and the host has checked the caller. It owns the routes
// and what the host has set at /sandlot/init; the services live in the packages
// beside it. Only cmd/sandlot-agent imports it.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/internal/agent/files"
	"github.com/sandlot-dev/sandlot/internal/agent/ports"
	"github.com/sandlot-dev/sandlot/internal/agent/process"
	"github.com/sandlot-dev/sandlot/internal/agent/reaper"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
)

// Options are how an agent runs. The zero value is an ordinary process that
// serves its own user, as in tests.
type Options struct {
	// Init says that this is process 1 of a sandbox: it reaps every orphan, and
	// umask and host name are its own to set.
	Init bool
	// Logger gets what goes wrong; nil drops it.
	Logger *slog.Logger
	// PasswdFile and GroupFile default to the ones in /etc.
	PasswdFile, GroupFile string
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.PasswdFile == "" {
		o.PasswdFile = "/etc/passwd"
	}
	if o.GroupFile == "" {
		o.GroupFile = "/etc/group"
	}
	return o
}

// Serve answers requests on ln until ctx ends or ln fails. Then it closes ln,
// breaks all connections, kills the process groups it started and waits for
// them. It returns nil if ctx ended.
func Serve(ctx context.Context, ln net.Listener, opts Options) error {
	opts = opts.withDefaults()
	scope := reaper.Own
	if opts.Init {
		scope = reaper.All
		syscall.Umask(0o022)
	}
	reap := reaper.New(scope)
	defer reap.Close()
	st := newState(opts)
	procs := process.New(process.Options{
		Reaper: reap, Logger: opts.Logger, User: st.user, Env: st.env, Workdir: st.workdir,
		MaxProcesses: st.maxProcesses, SwitchUser: os.Geteuid() == 0,
	})
	defer procs.Close()
	tunnels := ports.New()
	fs := files.New(files.Options{Logger: opts.Logger, Accounts: st.accounts, User: st.user, Named: st.named, Chown: os.Geteuid() == 0})
	defer fs.Close()

	var open requests
	server := newServer(opts, open.count(routes(st, procs, fs), tunnels))
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener{ln}) }()
	var err error
	select {
	case <-ctx.Done():
		err = server.Close()
		<-failed // it only says that the server is closed
	case err = <-failed:
		err = errors.Join(err, server.Close())
	}
	tunnels.Close()
	open.drain()
	return err
}

// newServer returns the HTTP server. It has no timeouts: its clients are the
// host, and requests last as long as the processes and files they are about.
func newServer(opts Options, handler http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:        handler,
		Protocols:      &protocols,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(opts.Logger.Handler(), slog.LevelWarn),
	}
}

// requests counts the requests being served.
type requests struct {
	mu     sync.Mutex
	wg     sync.WaitGroup
	closed bool
}

// count serves CONNECT with tunnels and everything else with mux, until drain.
func (q *requests) count(mux, tunnels http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return
		}
		q.wg.Add(1)
		q.mu.Unlock()
		defer q.wg.Done()
		// The form the host uses: an authority and no path (RFC 9110, 9.3.6).
		if r.Method == http.MethodConnect && r.URL.Path == "" {
			tunnels.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// drain waits for the requests whose connections have been broken, and lets no
// other in.
func (q *requests) drain() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wg.Wait()
}

// routes is everything but CONNECT. The edge forwards none of /sandlot/.
func routes(st *state, procs *process.Service, fs *files.Service) http.Handler {
	mux := http.NewServeMux()
	path, processes := processconnect.NewProcessHandler(procs, wire.HandlerOptions()...)
	mux.Handle(path, processes)
	mux.Handle(processconnect.ProcessStreamInputProcedure, duplex(processes))
	path, filesystem := filesystemconnect.NewFilesystemHandler(fs, wire.HandlerOptions()...)
	mux.Handle(path, filesystem)
	mux.Handle(filesystemconnect.FilesystemListDirProcedure, fs.Lists(filesystem))
	mux.Handle("/files", methods{http.MethodGet: fs.Download, http.MethodHead: fs.Download, http.MethodPost: fs.Upload})
	mux.Handle("/files/compose", methods{http.MethodPost: fs.Compose})
	mux.Handle("/health", methods{http.MethodGet: health, http.MethodHead: health})
	mux.Handle("/envs", methods{http.MethodGet: st.serveEnvs})
	mux.Handle("/sandlot/init", methods{http.MethodPost: st.serveInit})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		wire.WriteStatus(w, http.StatusNotFound, "the sandbox agent has no "+r.URL.Path)
	})
	return mux
}

func health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// methods serves one path by method, and refuses the others in JSON.
type methods map[string]http.HandlerFunc

// ServeHTTP calls the method's handler.
func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if serve, ok := m[r.Method]; ok {
		serve(w, r)
		return
	}
	wire.WriteStatus(w, http.StatusMethodNotAllowed, r.URL.Path+" does not take "+r.Method)
}
