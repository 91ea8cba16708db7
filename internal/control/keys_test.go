package control_test

import (
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func TestKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		first, text, err := r.CreateKey(t.Context(), " first ")
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^e2b_[0-9a-f]{40}$`).MatchString(text) {
			t.Errorf("key %q has the wrong form", text)
		}
		if first.Name != "first" || first.Length != 40 || text[:6] != first.Prefix+first.MaskPrefix || !strings.HasSuffix(text, first.MaskSuffix) {
			t.Errorf("described as %+v", first)
		}
		time.Sleep(time.Second)
		second, _, err := r.CreateKey(t.Context(), "second")
		if err != nil {
			t.Fatal(err)
		}
		used := time.Now()
		if k, err := r.Authenticate(text); err != nil || k.ID != first.ID {
			t.Errorf("Authenticate = %v, %v", k, err)
		}
		for _, bad := range []string{"", "e2b_", text + "0", text[1:], control.NewKeyText()} {
			_, err := r.Authenticate(bad)
			wantKind(t, err, errs.Unauthenticated)
		}
		time.Sleep(2 * time.Minute) // the last use is written in the background
		stored, err := r.reg.Keys(t.Context())
		if err != nil || len(stored) != 2 || !stored[0].LastUsed.Equal(used) || !stored[1].LastUsed.IsZero() {
			t.Errorf("stored keys %+v, %v", stored, err)
		}
		r.Close()
		r.boot(t)
		if keys := r.Keys(); len(keys) != 2 || keys[0].ID != first.ID || keys[1].ID != second.ID || !keys[0].LastUsed.Equal(used) {
			t.Errorf("Keys after a restart = %+v", keys)
		}
		if err := r.RevokeKey(t.Context(), first.ID); err != nil {
			t.Fatal(err)
		}
		_, err = r.Authenticate(text)
		wantKind(t, err, errs.Unauthenticated)
		wantKind(t, r.RevokeKey(t.Context(), first.ID), errs.NotFound)
		wantKind(t, r.RevokeKey(t.Context(), second.ID), errs.Conflict)
	})
}

func TestAdoptKey(t *testing.T) {
	r := start(t, control.Options{})
	text := control.NewKeyText()
	first, err := r.AdoptKey(t.Context(), "default", text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.AdoptKey(t.Context(), "default", text)
	if err != nil || again.ID != first.ID || len(r.Keys()) != 1 {
		t.Errorf("adopted again: %v, %v", again, err)
	}
	for _, tc := range [][2]string{
		{"", text},
		{"  ", text},
		{strings.Repeat("x", 129), text},
		{"a\nb", text},
		{"\xff", text},
		{"name", "e2b_short"},
		{"name", strings.ToUpper(text)},
	} {
		_, err := r.AdoptKey(t.Context(), tc[0], tc[1])
		wantKind(t, err, errs.Invalid)
	}
}
