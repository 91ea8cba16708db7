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

	"go.uber.org/zap"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

func TestDecide(t *testing.T) {
	s := &Source{domain: "x.example", live: func(label string) bool { return label == "8000-alive" }, budget: newBudget()}
	for name, want := range map[string]error{
		"x.example": nil, "api.x.example": nil, "8000-alive.x.example": nil, "8000-ALIVE.x.example": nil,
		"8000-dead.x.example": errNobody, "www.x.example": errNobody, "a.8000-alive.x.example": errNobody,
		"8000-alive.a.x.example": errNobody, "example": errNobody, "other.example": errNobody, "8000-alivex.example": errNobody,
		"": errNobody, ".x.example": errNobody, "8000-alive.x.example.": errNobody,
	} {
		if err := s.decide(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Source{domain: "x.example", live: func(string) bool { return true }, budget: newBudget()}
		ask := func(n int) error { return s.decide(t.Context(), fmt.Sprintf("%d-box.x.example", n)) }
		for n := range maxNames {
			if err := ask(n); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(maxNames); !errors.Is(err, errBudget) {
			t.Errorf("one more: %v", err)
		}
		if err := ask(0); err != nil {
			t.Errorf("one that was asked for: %v", err)
		}
		time.Sleep(while)
		if err := ask(maxNames); err != nil {
			t.Errorf("after a while: %v", err)
		}
	})
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
