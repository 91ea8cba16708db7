package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// nginx is a rival that serves files of one directory on the loopback: Debian's
// package, with nothing of the machine's own configuration.
type nginx struct {
	dir, url string
	cmd      *exec.Cmd
	words    *bytes.Buffer
	http     *http.Client
}

// nginxStart bounds how long nginx takes to answer, nginxStop how long it takes
// to end.
const nginxStart, nginxStop = 5 * time.Second, 5 * time.Second

// nginxPaths are where it is found: sbin is not on every PATH.
var nginxPaths = []string{"nginx", "/usr/sbin/nginx"}

// errNoNginx says why a row has no rival.
var errNoNginx = errors.New("no rival: nginx is not installed (package nginx-light)")

// startNginx starts it. The caller calls stop.
func startNginx(ctx context.Context) (*nginx, error) {
	path := ""
	for _, name := range nginxPaths {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		return nil, errNoNginx
	}
	dir, err := os.MkdirTemp("", "sandlot-bench-nginx-")
	if err != nil {
		return nil, err
	}
	n := &nginx{dir: dir, words: &bytes.Buffer{}, http: &http.Client{Transport: &http.Transport{
		DisableCompression: true, ReadBufferSize: copyBytes, WriteBufferSize: copyBytes,
	}}}
	if err := n.start(ctx, path); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

func (n *nginx) start(ctx context.Context, path string) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(n.dir, "www"), 0o700); err != nil {
		return err
	}
	config := filepath.Join(n.dir, "nginx.conf")
	if err := os.WriteFile(config, nginxConfig(n.dir, port, os.Geteuid() == 0), 0o600); err != nil {
		return err
	}
	n.url = "http://127.0.0.1:" + strconv.Itoa(port) + "/"
	n.cmd = exec.CommandContext(context.WithoutCancel(ctx), path, "-e", "stderr", "-p", n.dir, "-c", config)
	n.cmd.Stdout, n.cmd.Stderr = n.words, n.words
	// It ends with this program, also when that is killed.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := n.cmd.Start(); err != nil {
		n.cmd = nil
		return fmt.Errorf("start nginx: %w", err)
	}
	return n.await(ctx)
}

// nginxConfig serves dir/www with sendfile, and takes PUT.
func nginxConfig(dir string, port int, root bool) []byte {
	var out bytes.Buffer
	if root {
		out.WriteString("user root;\n") // the directory is root's own
	}
	fmt.Fprintf(&out, `daemon off;
worker_processes 2;
pid %[1]s/pid;
error_log stderr error;
events { worker_connections 64; }
http {
  access_log off;
  sendfile on;
  client_max_body_size 0;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen 127.0.0.1:%[2]d;
    root %[1]s/www;
  }
}
`, dir, port)
	return out.Bytes()
}

// freePort returns a port of the loopback that nobody listens on now.
func freePort(ctx context.Context) (int, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.Join(fmt.Errorf("no port in %v", ln.Addr()), ln.Close())
	}
	return addr.Port, ln.Close()
}

// await waits until it answers.
func (n *nginx) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, nginxStart)
	defer cancel()
	for {
		res, err := n.request(ctx, "")
		if err == nil {
			return res.Body.Close()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("nginx does not answer: %w; it says: %s", err, bytes.TrimSpace(n.words.Bytes()))
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func (n *nginx) request(ctx context.Context, name string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+name, nil)
	if err != nil {
		return nil, err
	}
	return n.http.Do(req)
}

// get returns a file's body.
func (n *nginx) get(ctx context.Context, name string) (io.ReadCloser, error) {
	res, err := n.request(ctx, name)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("nginx answers %s", res.Status), res.Body.Close())
	}
	return res.Body, nil
}

// path is where a file it serves lies.
func (n *nginx) path(name string) string { return filepath.Join(n.dir, "www", name) }

// stop ends it and removes its files.
func (n *nginx) stop() error {
	n.http.CloseIdleConnections()
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(nginxStop, func() { _ = n.cmd.Process.Kill() })
		_ = n.cmd.Wait() // how it ends says nothing
		kill.Stop()
	}
	return os.RemoveAll(n.dir)
}
