package process

import (
	"errors"
	"testing"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/agent/account"
)

// A resize that was under way when the process ended says so.
func TestResizeAfterEnd(t *testing.T) {
	size := &pb.PTY{Size: &pb.PTY_Size{Cols: 80, Rows: 24}}
	streams, err := newTerminal(size, account.User{}, false)
	if err != nil {
		t.Fatal(err)
	}
	p := &proc{io: streams}
	if err := p.resize(size); err != nil {
		t.Errorf("before: %v", err)
	}
	streams.closeParent()
	if err := p.resize(size); !errors.Is(err, errHungUp) {
		t.Errorf("after: %v", err)
	}
}
