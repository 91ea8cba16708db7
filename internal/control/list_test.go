package control_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

func ids(all []control.Sandbox) (out []sandbox.ID) {
	for _, s := range all {
		out = append(out, s.ID)
	}
	return out
}

// five returns a rig with five sandboxes, one second apart, oldest first.
// Sandboxes 0, 2 and 4 carry parity=even.
func five(t *testing.T) (*rig, []sandbox.ID) {
	r := start(t, control.Options{})
	var made []sandbox.ID
	for i := range 5 {
		parity := []string{"even", "odd"}[i%2]
		s, err := r.Create(t.Context(), control.CreateRequest{
			Template: "base", Timeout: time.Hour,
			Metadata: map[string]string{"parity": parity, "n": fmt.Sprint(i), "empty": ""},
		})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, s.ID)
		time.Sleep(time.Second)
	}
	return r, made
}

func TestListFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r, made := five(t)
		for _, tc := range []struct {
			name string
			req  control.ListRequest
			want []int
		}{
			{"all, newest first", control.ListRequest{}, []int{4, 3, 2, 1, 0}},
			{"oldest first", control.ListRequest{OldestFirst: true}, []int{0, 1, 2, 3, 4}},
			{"one pair", control.ListRequest{Metadata: map[string]string{"parity": "even"}}, []int{4, 2, 0}},
			{"two pairs", control.ListRequest{Metadata: map[string]string{"parity": "even", "n": "2"}}, []int{2}},
			{"pair of another", control.ListRequest{Metadata: map[string]string{"parity": "odd", "n": "2"}}, nil},
			{"empty value", control.ListRequest{Metadata: map[string]string{"empty": "", "n": "1"}}, []int{1}},
			{"absent key with empty value", control.ListRequest{Metadata: map[string]string{"absent": ""}}, nil},
			{"running", control.ListRequest{States: []sandbox.State{sandbox.Running}}, []int{4, 3, 2, 1, 0}},
			{"paused", control.ListRequest{States: []sandbox.State{sandbox.Paused}}, nil},
			{"template ID", control.ListRequest{Template: base.ID}, []int{4, 3, 2, 1, 0}},
			{"template alias", control.ListRequest{Template: "base"}, []int{4, 3, 2, 1, 0}},
			{"other template", control.ListRequest{Template: "other"}, nil},
			{"started after", control.ListRequest{StartedAfter: begin.Add(2 * time.Second)}, []int{4, 3}},
		} {
			page, err := r.List(tc.req)
			var want []sandbox.ID
			for _, i := range tc.want {
				want = append(want, made[i])
			}
			if err != nil || !slices.Equal(ids(page.Sandboxes), want) || page.TotalRunning != len(want) || page.NextToken != "" {
				t.Errorf("%s: %v, total %d, next %q, %v; want %v", tc.name, ids(page.Sandboxes), page.TotalRunning, page.NextToken, err, want)
			}
		}
	})
}

func TestListPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, made := five(t)
		for _, oldestFirst := range []bool{false, true} {
			var got []sandbox.ID
			req := control.ListRequest{OldestFirst: oldestFirst, Limit: 2}
			for pages := 1; ; pages++ {
				page, err := r.List(req)
				if err != nil || page.TotalRunning != 5 {
					t.Fatalf("page %d: total %d, %v", pages, page.TotalRunning, err)
				}
				got = append(got, ids(page.Sandboxes)...)
				if req.PageToken = page.NextToken; req.PageToken == "" {
					break
				}
			}
			want := slices.Clone(made)
			if !oldestFirst {
				slices.Reverse(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("pages hold %v, want %v", got, want)
			}
		}
		if page, _ := r.List(control.ListRequest{Limit: 5}); page.NextToken != "" {
			t.Error("a page that ends the list has a next token")
		}
	})
}

// TestListPagesWhileKilling kills the sandbox a page token points at.
func TestListPagesWhileKilling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, made := five(t)
		page, err := r.List(control.ListRequest{Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Kill(t.Context(), made[3]); err != nil {
			t.Fatal(err)
		}
		page, err = r.List(control.ListRequest{Limit: 10, PageToken: page.NextToken})
		if want := []sandbox.ID{made[2], made[1], made[0]}; err != nil || !slices.Equal(ids(page.Sandboxes), want) {
			t.Errorf("second page %v, %v, want %v", ids(page.Sandboxes), err, want)
		}
	})
}

func TestBadPageToken(t *testing.T) {
	r := start(t, control.Options{})
	for _, token := range []string{"x", "!!", "MTI", "MTI6", "LTE6YSBi", "MTppYWJj\n"} {
		_, err := r.List(control.ListRequest{PageToken: token})
		if !errs.Is(err, errs.Invalid) {
			t.Errorf("token %q: %v, want kind invalid", token, err)
		}
	}
}

func TestParseStates(t *testing.T) {
	got, err := control.ParseStates("running,paused")
	if err != nil || !slices.Equal(got, []sandbox.State{sandbox.Running, sandbox.Paused}) {
		t.Errorf("ParseStates = %v, %v", got, err)
	}
	for _, bad := range []string{"", "stopped", "running,", "Running"} {
		_, err := control.ParseStates(bad)
		wantKind(t, err, errs.Invalid)
	}
}
