package acme

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

func newSource(t testing.TB, live func(string) (string, bool)) *Source {
	t.Helper()
	s := &Source{domain: "x.example", live: live, budget: newBudget()}
	s.asked = &certmagic.Config{Storage: &certmagic.FileStorage{Path: t.TempDir()}, Issuers: []certmagic.Issuer{&certmagic.ACMEIssuer{CA: "https://ca.example/dir"}}}
	return s
}

func TestDecide(t *testing.T) {
	s := newSource(t, func(label string) (string, bool) { return "alive", label == "8000-alive" })
	for name, want := range map[string]error{
		"x.example": nil, "api.x.example": nil, "8000-alive.x.example": nil, "8000-ALIVE.x.example": nil,
		"8000-dead.x.example": errNobody, "www.x.example": errNobody, "a.8000-alive.x.example": errNobody,
		"8000-alive.a.x.example": errNobody, "example": errNobody, "other.example": errNobody, "8000-alivex.example": errNobody,
		"": errNobody, ".x.example": errNobody, "8000-alive.x.example.": errNobody, "a.api.x.example": errNobody,
	} {
		if err := s.decide(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, func(label string) (string, bool) { _, id, _ := strings.Cut(label, "-"); return id, true })
		ask := func(port, box int) error { return s.decide(t.Context(), fmt.Sprintf("%d-box%d.x.example", port, box)) }
		for port := range maxOfOne {
			if err := ask(port, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(maxOfOne, 0); !errors.Is(err, errBudget) {
			t.Errorf("one more of a sandbox: %v", err)
		}
		for box := range maxNames - maxOfOne {
			if err := ask(1, 1+box); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(1, maxNames); !errors.Is(err, errBudget) {
			t.Errorf("one more of all: %v", err)
		}
		if err := errors.Join(ask(0, 0), ask(1, 1)); err != nil {
			t.Errorf("some that were asked for: %v", err)
		}
		if err := s.decide(t.Context(), "api.x.example"); err != nil {
			t.Errorf("the server's own: %v", err)
		}
		time.Sleep(while)
		if err := errors.Join(ask(maxOfOne, 0), ask(1, maxNames)); err != nil {
			t.Errorf("after a while: %v", err)
		}
	})
}

// What is on the disk already needs no order.
func TestKeptCostsNothing(t *testing.T) {
	s := newSource(t, func(string) (string, bool) { return "box", true })
	for port := range 2 * maxOfOne {
		name := fmt.Sprintf("%d-box.x.example", port)
		if err := s.asked.Storage.Store(t.Context(), certmagic.StorageKeys.SiteCert(s.asked.Issuers[0].IssuerKey(), name), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := s.decide(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.budget.spent) != 0 {
		t.Errorf("%d orders were counted", len(s.budget.spent))
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	h := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	l := zap.New(core{handler: h}).With(zap.String("who", "me"))
	l.Debug("not this")
	l.Info("got", zap.Int("n", 1), zap.Error(errors.New("almost")))
	l.Warn("hm")
	l.Error("no")
	want := "level=INFO msg=got who=me part=acme n=1 error=almost\nlevel=WARN msg=hm who=me part=acme\nlevel=ERROR msg=no who=me part=acme\n"
	if out.String() != want {
		t.Errorf("logged\n%swant\n%s", out.String(), want)
	}
}

func TestRoots(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, empty + ".none"} {
		if _, err := readRoots(path); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "tls.acme_root") {
			t.Errorf("readRoots(%s) = %v", path, err)
		}
	}
	if pool, err := readRoots(""); pool != nil || err != nil {
		t.Errorf("readRoots() = %v, %v", pool, err)
	}
}
