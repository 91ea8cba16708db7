package control_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func sign(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "v1_" + base64.StdEncoding.WithPadding(base64.NoPadding).EncodeToString(sum[:])
}

func TestAuthorize(t *testing.T) {
	r := start(t, control.Options{})
	a, b := r.create(t, time.Minute), r.create(t, time.Minute)
	if err := r.Authorize(a.ID, a.AccessToken); err != nil {
		t.Error(err)
	}
	for _, token := range []string{"", "x", b.AccessToken, a.AccessToken[1:]} {
		wantKind(t, r.Authorize(a.ID, token), errs.Unauthenticated)
	}
}

func TestSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		a, b := r.create(t, time.Hour), r.create(t, time.Hour)
		soon := strconv.FormatInt(time.Now().Add(30*time.Second).Unix(), 10)
		good := control.FileSignature{Path: "a b.txt", Op: "read", User: "root", Signature: sign("a b.txt:read:root:" + b.AccessToken)}
		timed := control.FileSignature{Path: "f", Op: "write", Expiration: soon, Signature: sign("f:write::" + b.AccessToken + ":" + soon)}
		for _, f := range []control.FileSignature{good, timed} {
			if s, err := r.SandboxBySignature(f); err != nil || s.ID != b.ID {
				t.Errorf("SandboxBySignature = %v, %v, want %v", s.ID, err, b.ID)
			}
			if err := r.AuthorizeFile(b.ID, f); err != nil {
				t.Error(err)
			}
			wantKind(t, r.AuthorizeFile(a.ID, f), errs.Unauthenticated)
		}
		for name, change := range map[string]func(*control.FileSignature){
			"path":       func(f *control.FileSignature) { f.Path = "/etc/shadow" },
			"operation":  func(f *control.FileSignature) { f.Op = "write" },
			"user":       func(f *control.FileSignature) { f.User = "" },
			"expiration": func(f *control.FileSignature) { f.Expiration = soon },
			"none":       func(f *control.FileSignature) { f.Signature = "" },
		} {
			f := good
			change(&f)
			_, err := r.SandboxBySignature(f)
			if !errs.Is(err, errs.Unauthenticated) {
				t.Errorf("another %s: %v, want kind unauthenticated", name, err)
			}
		}
		time.Sleep(31 * time.Second)
		_, err := r.SandboxBySignature(timed)
		wantKind(t, err, errs.Unauthenticated)
		wantKind(t, r.AuthorizeFile(b.ID, timed), errs.Unauthenticated)
		if err := r.Kill(t.Context(), b.ID); err != nil {
			t.Fatal(err)
		}
		_, err = r.SandboxBySignature(good)
		wantKind(t, err, errs.Unauthenticated)
	})
}

// What is too long is refused before it is hashed, what is just short enough works.
func TestLongSignedPaths(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, time.Minute)
	for length, want := range map[int]errs.Kind{4096: 0, 4097: errs.Invalid, 64 << 10: errs.Invalid} {
		path := strings.Repeat("x", length-len("root"))
		f := control.FileSignature{Path: path, Op: "read", User: "root", Signature: sign(path + ":read:root:" + s.AccessToken)}
		_, err := r.SandboxBySignature(f)
		for _, err := range []error{err, r.AuthorizeFile(s.ID, f)} {
			if (want == 0 && err != nil) || (want != 0 && !errs.Is(err, want)) {
				t.Errorf("%d bytes: %v", length, err)
			}
		}
	}
	_, err := r.SandboxBySignature(control.FileSignature{Path: "f", Op: "read", Signature: "v1_short"})
	wantKind(t, err, errs.Unauthenticated)
}

// An open sandbox takes every token and signature, but no signature leads to it:
// without a token of its own everybody could make one.
func TestInsecureSandbox(t *testing.T) {
	r := start(t, control.Options{AllowInsecure: true})
	open, err := r.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: time.Minute, Insecure: true})
	if err != nil || !open.Insecure || open.AccessToken != "" {
		t.Fatalf("created %+v, %v", open, err)
	}
	f := control.FileSignature{Path: "f", Op: "read", Signature: sign("f:read::")}
	for name, err := range map[string]error{
		"no token": r.Authorize(open.ID, ""), "any token": r.Authorize(open.ID, "x"), "signature": r.AuthorizeFile(open.ID, f),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = r.SandboxBySignature(f)
	wantKind(t, err, errs.Unauthenticated)
}
