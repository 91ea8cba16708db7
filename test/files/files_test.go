// Package files_test tries the transfer of files on the real server: what the
// agent's own tests cannot show of a sandbox's disk, mounts and root.
package files_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/test/harness"
)

func TestFiles(t *testing.T) {
	testreq.Root(t)
	server := harness.Start(t, harness.Options{})
	server.CLI("template", "set", "base", "--disk", "64M")
	c, err := client.New(client.Options{DataDir: server.DataDir, Env: func(string) string { return "" }})
	must(t, err)
	t.Cleanup(c.Close)
	for name, test := range map[string]func(*testing.T, *client.Sandbox){
		"quota": quota, "compose": compose, "links": links, "mounts": mounts, "parallel": parallel, "memory": memory, "storm": storm,
	} {
		t.Run(name, func(t *testing.T) {
			sbx, err := c.Create(t.Context(), client.WithTimeout(10*time.Minute))
			must(t, err)
			test(t, sbx)
			must(t, sbx.Kill(t.Context()))
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a shell line in the sandbox as root and returns what it prints.
func run(t *testing.T, sbx *client.Sandbox, line string) string {
	t.Helper()
	out, err := sbx.Commands.Run(t.Context(), line, client.AsUser("root"))
	if err != nil || out.ExitCode != 0 {
		t.Errorf("%s: %+v, %v", line, out, err)
	}
	return out.Stdout
}

func read(t *testing.T, sbx *client.Sandbox, path string) string {
	t.Helper()
	b, err := sbx.Files.Read(t.Context(), path)
	if err != nil {
		t.Errorf("read %s: %v", path, err)
	}
	return string(b)
}

// zeros is an endless stream that counts what was taken of it.
type zeros struct{}

// Read fills p.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// quota writes more than the sandbox's disk takes.
func quota(t *testing.T, sbx *client.Sandbox) {
	must(t, sbx.Files.Write(t.Context(), "old", []byte("old")))
	for _, what := range []string{"first", "again"} {
		if err := sbx.Files.WriteStream(t.Context(), "old", io.LimitReader(zeros{}, 200<<20)); !errors.Is(err, client.ErrNoSpace) {
			t.Errorf("%s: %v", what, err)
		}
		if got := read(t, sbx, "old"); got != "old" {
			t.Errorf("%s: the old file has become %d bytes", what, len(got))
		}
	}
	for i := range 3 { // together too large once more
		must(t, sbx.Files.WriteStream(t.Context(), fmt.Sprint("part", i), io.LimitReader(zeros{}, 10<<20)))
	}
	must(t, sbx.Files.WriteStream(t.Context(), "/dev/shm/large", io.LimitReader(zeros{}, 50<<20)))
	status, reply := join(t, sbx, "/home/user/old", "/home/user/part0", "/dev/shm/large")
	if status != http.StatusInsufficientStorage {
		t.Errorf("compose: %d %s", status, reply)
	}
	if got := run(t, sbx, "cat /home/user/old; find / -xdev -name '.sandlot-upload-*'; stat -c %s /home/user/part0 /dev/shm/large"); got != "old10485760\n52428800\n" {
		t.Errorf("afterwards: %q", got)
	}
	// There is room again for what fits.
	must(t, sbx.Files.WriteStream(t.Context(), "old", io.LimitReader(zeros{}, 5<<20)))
}

// join sends a request to join files.
func join(t *testing.T, sbx *client.Sandbox, destination string, sources ...string) (int, string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"source_paths": sources, "destination": destination})
	must(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent/files/compose", bytes.NewReader(body))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := sbx.Transport(49983).RoundTrip(req)
	must(t, err)
	defer res.Body.Close()
	reply, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(reply)
}

// compose joins files by way of the edge, as a user.
func compose(t *testing.T, sbx *client.Sandbox) {
	for i := range 3 {
		must(t, sbx.Files.Write(t.Context(), fmt.Sprint("part", i), bytes.Repeat([]byte{'a' + byte(i)}, 8<<20)))
	}
	status, reply := join(t, sbx, "~/joined/whole", "part2", "part0", "part1")
	if status != http.StatusOK || !strings.Contains(reply, `"path":"/home/user/joined/whole"`) {
		t.Fatalf("%d %s", status, reply)
	}
	got := run(t, sbx, "cd /home/user; ls; stat -c '%U %G %a %s' joined joined/whole; tr -d c <joined/whole | head -c 1; tail -c 1 joined/whole")
	if want := "joined\nuser user 755 "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "user user 644 25165824\nab") {
		t.Errorf("joined: %q", got)
	}
}

// links plants links that lead outside, were they followed on the host.
func links(t *testing.T, sbx *client.Sandbox) {
	const secret = "of the host alone"
	host := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(host, []byte(secret), 0o600))
	up := strings.Repeat("../", 40)
	for i, target := range []string{
		host, up + host, "/proc/1/root" + host, "/proc/1/root/" + up + host, "/proc/self/cwd/" + up + host, "/proc/1/task/1/root" + host,
	} {
		link := fmt.Sprintf("/tmp/link%d", i)
		run(t, sbx, fmt.Sprintf("ln -s %s %s; ln -s %s %s.dir", target, link, filepath.Dir(target), link))
		for _, path := range []string{link, link + ".dir/file", target} {
			if got, err := sbx.Files.Read(t.Context(), path); err == nil {
				t.Errorf("%s -> %s gave %q", path, target, got)
			}
		}
		if entries, err := sbx.Files.List(t.Context(), link+".dir", 1); err == nil {
			t.Errorf("%s -> %s lists %v", link, target, entries)
		}
		_ = sbx.Files.Write(t.Context(), link, []byte("changed"))
		_ = sbx.Files.Write(t.Context(), link+".dir/file", []byte("changed"))
		_, _ = sbx.Files.Rename(t.Context(), link+".dir/file", "/tmp/moved")
		_ = sbx.Files.Remove(t.Context(), link+".dir/file")
		if got, err := os.ReadFile(host); err != nil || string(got) != secret {
			t.Fatalf("%s: the host's file is %q, %v", target, got, err)
		}
		run(t, sbx, "rm -rf "+filepath.Dir(host)+" "+link+" "+link+".dir")
	}
}

// mounts moves files between the sandbox's file systems.
func mounts(t *testing.T, sbx *client.Sandbox) {
	run(t, sbx, "mkdir -p ~user/tree/sub; cd ~user/tree; echo content >sub/f; ln -s sub/f link; chmod 751 sub; chown -R user:user .")
	for _, step := range [][2]string{
		{"/home/user/tree", "/dev/shm/new/tree"},  // to another file system
		{"/dev/shm/new/tree", "/home/user/tree2"}, // and back
		{"/usr/share/doc/bash", "/home/user/doc"}, // a directory of the image
	} {
		if _, err := sbx.Files.Rename(t.Context(), step[0], step[1]); err != nil {
			t.Errorf("%v: %v", step, err)
		}
		if ok, err := sbx.Files.Exists(t.Context(), step[0]); ok || err != nil {
			t.Errorf("%s still exists: %v, %v", step[0], ok, err)
		}
	}
	if got := run(t, sbx, "cd ~user/tree2; cat link; stat -c '%U %a' sub sub/f; readlink link; test -n \"$(ls ~user/doc)\""); got != "content\nuser 751\nuser 644\nsub/f\n" {
		t.Errorf("after moving there and back: %q", got)
	}
}

// parallel runs many transfers at once.
func parallel(t *testing.T, sbx *client.Sandbox) {
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			want := bytes.Repeat([]byte(fmt.Sprintf("%07d\n", i)), 32<<10)
			path := fmt.Sprint("many/", i)
			if err := sbx.Files.Write(t.Context(), path, want); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if got, err := sbx.Files.Read(t.Context(), path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", path, len(got), err)
			}
		})
	}
	wg.Wait()
}

// memory moves a large file to and from memory that is not the disk's, and looks
// at what the agent needed.
func memory(t *testing.T, sbx *client.Sandbox) {
	size := int64(256 << 20)
	if text := os.Getenv("SANDLOT_TEST_TRANSFER_MIB"); text != "" {
		mib, err := strconv.ParseInt(text, 10, 32)
		must(t, err)
		size = mib << 20
	}
	run(t, sbx, "echo 5 >/proc/1/clear_refs || true")
	// A device takes any amount.
	must(t, sbx.Files.WriteStream(t.Context(), "/dev/null", io.LimitReader(zeros{}, size)))
	run(t, sbx, fmt.Sprintf("truncate -s %d /home/user/sparse", size))
	body, err := sbx.Files.ReadStream(t.Context(), "/home/user/sparse")
	must(t, err)
	n, err := io.Copy(io.Discard, body)
	if err = errors.Join(err, body.Close()); err != nil || n != size {
		t.Errorf("read %d of %d bytes, %v", n, size, err)
	}
	var peak, file int64
	for line := range strings.Lines(run(t, sbx, "cat /proc/1/status")) {
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &peak)
		_, _ = fmt.Sscanf(line, "RssFile: %d kB", &file)
	}
	if own := peak - file; peak == 0 || own > 16<<10 {
		t.Errorf("the agent's own memory was %d kB at most (of %d)", own, peak)
	} else {
		t.Logf("%d MiB each way: the agent's own memory was %d kB at most", size>>20, own)
	}
}

// storm makes more requests at once than the agent's socket queues.
func storm(t *testing.T, sbx *client.Sandbox) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	transport := sbx.Transport(49983)
	var wg sync.WaitGroup
	for range 600 {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/health", nil)
			if err != nil {
				t.Error(err)
				return
			}
			res, err := transport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusNoContent {
				t.Errorf("health: %d", res.StatusCode)
			}
		})
	}
	wg.Wait()
}
