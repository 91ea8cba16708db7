package errs_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// golden is the whole table: clients branch on these, so a change is a change
// of the interface.
const golden = `
internal: 500 internal 70
invalid: 400 invalid_argument 64
not found: 404 not_found 66
conflict: 409 already_exists 73
exhausted: 429 resource_exhausted 75
unauthenticated: 401 unauthenticated 77
forbidden: 403 permission_denied 77
timeout: 504 deadline_exceeded 75
unavailable: 503 unavailable 69
unsupported: 501 unimplemented 69
no space: 507 resource_exhausted 74
too large: 413 resource_exhausted 64
`

func TestTable(t *testing.T) {
	var got strings.Builder
	got.WriteByte('\n')
	for _, k := range errs.Kinds() {
		fmt.Fprintf(&got, "%v: %d %s %d\n", k, k.HTTPStatus(), k.ConnectCode(), k.ExitCode())
		if back := errs.FromHTTPStatus(k.HTTPStatus()); back != k {
			t.Errorf("status %d of %v leads back to %v", k.HTTPStatus(), k, back)
		}
	}
	if d := cmp.Diff(golden, got.String()); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}

func TestKindOf(t *testing.T) {
	inner := errs.New(errs.NotFound, "no %s", "such")
	for _, tc := range []struct {
		err    error
		kind   errs.Kind
		public string
	}{
		{io.EOF, errs.Internal, errs.PublicMessage(io.EOF)},
		{inner, errs.NotFound, "no such"},
		{fmt.Errorf("while: %w", inner), errs.NotFound, "no such"},
		{errs.Wrap(inner, errs.Invalid, "outer"), errs.Invalid, "outer"},
		{errors.Join(io.EOF, inner), errs.NotFound, "no such"},
	} {
		if k := errs.KindOf(tc.err); k != tc.kind {
			t.Errorf("KindOf(%v) = %v, want %v", tc.err, k, tc.kind)
		}
		if m := errs.PublicMessage(tc.err); m != tc.public {
			t.Errorf("PublicMessage(%v) = %q, want %q", tc.err, m, tc.public)
		}
	}
	if errs.Wrap(nil, errs.Invalid, "x") != nil {
		t.Error("Wrap of nil is an error")
	}
	if errs.Is(nil, errs.Internal) {
		t.Error("nil has a kind")
	}
}
