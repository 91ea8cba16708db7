package namespace

import (
	"context"
	"fmt"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	tmp := t.TempDir()
	layer := filepath.Join(tmp, "agent")
	os.MkdirAll(layer+"/.sandlot", 0o755)
	b, _ := os.ReadFile("/tmp/scratch/lead/sandlot-agent")
	os.WriteFile(layer+"/.sandlot/agent", b, 0o755)
	root := filepath.Join(tmp, "root")
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "etc"} {
		os.MkdirAll(root+"/"+d, 0o755)
	}
	os.Chmod(root, 0o755)
	os.Chmod(layer, 0o755)
	d, err := New(Options{RunDir: filepath.Join(tmp, "run"), AgentLayer: layer, AgentPath: ".sandlot/agent", CgroupParent: "sandlot-smoke", Logger: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for n := range 20 {
		id := sandbox.NewID()
		up := filepath.Join(tmp, "box", string(id))
		os.MkdirAll(up+"/up", 0o755)
		os.MkdirAll(up+"/work", 0o755)
		t0 := time.Now()
		i, err := d.Create(t.Context(), driver.Spec{ID: id, Layers: []string{root}, Upper: up + "/up", Work: up + "/work", UIDBase: 0x70000000 + uint32(n%3)*65536, Hostname: "sandbox", Limits: sandbox.DefaultLimits()})
		if err != nil {
			t.Fatal(err)
		}
		t1 := time.Now()
		if err := i.Start(t.Context()); err != nil {
			i.Destroy(t.Context())
			t.Fatal(err)
		}
		t2 := time.Now()
		c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return i.Dial(ctx) }}}
		r, err := c.Get("http://x/health")
		if err != nil {
			t.Error(err)
		} else {
			r.Body.Close()
		}
		t3 := time.Now()
		if n == 0 {
			for _, f := range []string{"/proc/1/mountinfo", "/proc/1/status", "/proc/self/cgroup", "/proc/sys/kernel/hostname"} {
				r, err := c.Get("http://x/cat?f=" + f)
				if err == nil {
					bb, _ := io.ReadAll(r.Body)
					fmt.Println(string(bb))
				}
			}
			s, err := i.Stats(t.Context())
			fmt.Println(s, err)
		}
		t3b := time.Now()
		if err := i.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
		fmt.Println("create", t1.Sub(t0), "start", t2.Sub(t1), "ping", t3.Sub(t2), "destroy", time.Since(t3b))
	}
	fmt.Println(d.Sweep(t.Context(), nil))
}
