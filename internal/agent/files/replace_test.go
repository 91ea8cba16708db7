package files

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// endsAfter is a context that ends when it has been looked at so many times.
type endsAfter struct {
	context.Context
	looks int
}

func (c *endsAfter) Err() error {
	if c.looks--; c.looks < 0 {
		return context.Canceled
	}
	return nil
}

// A copy stops with the chunk during which its client went away.
func TestCopyStops(t *testing.T) {
	dir := t.TempDir()
	in, err := os.Create(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.Truncate(3*copyChunk + 1); err != nil { // without blocks
		t.Fatal(err)
	}
	for looks, want := range map[int]int64{0: 0, 1: copyChunk} {
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		err = copyFile(&endsAfter{t.Context(), looks}, out, in, "in")
		if errs.KindOf(err) != errs.Timeout {
			t.Errorf("%d looks: %v", looks, err)
		}
		if info, err := out.Stat(); err != nil || info.Size() != want {
			t.Errorf("%d looks: %d bytes were copied, %v; want %d", looks, info.Size(), err, want)
		}
		if _, err := in.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
	}
}
