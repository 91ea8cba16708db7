package process

import (
	"log/slog"
	"testing"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/reaper"
)

func newTestService(t testing.TB) *Service {
	r := reaper.New(reaper.Own)
	t.Cleanup(r.Close)
	s := New(Options{
		Reaper: r, Logger: slog.New(slog.DiscardHandler),
		User:    func(string) (account.User, error) { return account.User{}, nil },
		Env:     func() map[string]string { return nil },
		Workdir: func() string { return "" }, MaxProcesses: func() int { return 0 },
	})
	t.Cleanup(s.Close)
	return s
}

// BenchmarkLaunch is what a command costs before HTTP: start, end and output.
func BenchmarkLaunch(b *testing.B) {
	s := newTestService(b)
	no := false
	req := &pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/bin/true"}, Stdin: &no}
	for b.Loop() {
		c, err := s.plan(req, account.User{Home: "/"})
		if err != nil {
			b.Fatal(err)
		}
		p, sub, err := s.launch(c, req, 0)
		if err != nil {
			b.Fatal(err)
		}
		<-p.done
		sub.detach()
	}
}
