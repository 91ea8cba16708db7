package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// maxInitBytes bounds the body of POST /sandlot/init.
const maxInitBytes = 4 << 20

// settings is the body of POST /sandlot/init: what the host decides about a
// sandbox after it has started.
type settings struct {
	Env            map[string]string `json:"env"`
	DefaultUser    string            `json:"default_user"`
	DefaultWorkdir string            `json:"default_workdir"`
	Hostname       string            `json:"hostname"`
	MaxProcesses   int               `json:"max_processes"`
}

// state is the sandbox as the host has set it up. It is safe for concurrent use.
type state struct {
	accounts *account.DB
	uid      uint32
	// owner says that the host name is ours to set.
	owner bool

	mu  sync.RWMutex
	now settings
}

func newState(o Options) *state {
	return &state{accounts: account.New(o.PasswdFile, o.GroupFile), uid: uint32(os.Geteuid()), owner: o.Init}
}

// env returns the sandbox's variables. The map is replaced, never changed.
func (s *state) env() map[string]string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.now.Env
}

// workdir returns the default working directory, "" for the home directory.
func (s *state) workdir() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.now.DefaultWorkdir
}

// maxProcesses returns how many processes the API may run at once, 0 for any
// number.
func (s *state) maxProcesses() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.now.MaxProcesses
}

// user returns whom a request acts as, from its Authorization header.
func (s *state) user(authorization string) (account.User, error) {
	name, err := account.FromAuthorization(authorization)
	if err != nil {
		return account.User{}, err
	}
	return s.named(name)
}

// named returns the account called name; the default user if name is empty.
func (s *state) named(name string) (account.User, error) {
	if name == "" {
		return s.defaultUser()
	}
	u, err := s.accounts.Lookup(name)
	if err != nil {
		return u, err
	}
	if s.uid != 0 && u.UID != s.uid {
		return u, errs.New(errs.Unauthenticated, "this agent runs as an ordinary user and cannot act as %q", name)
	}
	return u, nil
}

// defaultUser is what the host set, else user, else root; for an agent that is
// not root, always itself.
func (s *state) defaultUser() (account.User, error) {
	s.mu.RLock()
	name := s.now.DefaultUser
	s.mu.RUnlock()
	if name != "" {
		return s.named(name)
	}
	if s.uid == 0 {
		if u, err := s.accounts.Lookup("user"); err == nil {
			return u, nil
		}
	}
	if u, ok := s.accounts.ByID(s.uid); ok {
		return u, nil
	}
	return s.nobodyKnown(), nil
}

// nobodyKnown is the agent's own user when no account file names it.
func (s *state) nobodyKnown() account.User {
	u := account.User{Name: "root", UID: s.uid, GID: uint32(os.Getegid()), Home: "/root", Shell: "/bin/sh"}
	if s.uid != 0 {
		u.Name, u.Home = "user", "/"
	}
	return u
}

// serveInit replaces the settings.
func (s *state) serveInit(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxInitBytes))
	if err != nil {
		wire.WriteError(w, errs.Wrap(err, errs.Invalid, "the body is unreadable or over %d bytes", maxInitBytes))
		return
	}
	var next settings
	// Unknown fields pass: a later host may serve an agent started before it.
	if err := json.Unmarshal(body, &next); err != nil {
		wire.WriteError(w, errs.Wrap(err, errs.Invalid, "the body is not the JSON object expected: %v", err))
		return
	}
	if next.DefaultUser != "" {
		if _, err := s.named(next.DefaultUser); err != nil {
			wire.WriteError(w, errs.Wrap(err, errs.Invalid, "default_user: %s", errs.PublicMessage(err)))
			return
		}
	}
	if next.Hostname != "" && s.owner {
		if err := unix.Sethostname([]byte(next.Hostname)); err != nil {
			wire.WriteError(w, errs.Wrap(err, errs.Invalid, "hostname %q: %v", next.Hostname, err))
			return
		}
	}
	s.mu.Lock()
	s.now = next
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// serveEnvs answers with the sandbox's variables.
func (s *state) serveEnvs(w http.ResponseWriter, _ *http.Request) {
	env := s.env()
	if env == nil {
		env = map[string]string{}
	}
	wire.WriteJSON(w, http.StatusOK, env)
}
