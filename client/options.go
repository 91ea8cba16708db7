package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// defaultURL is where a server listens that was told nothing.
	defaultURL = "http://127.0.0.1:7280"
	// defaultDataDir is where such a server keeps its data.
	defaultDataDir = "/var/lib/sandlot"
)

// Options say where the server is. Empty fields are filled by New.
type Options struct {
	// APIURL is the base of the control plane. If empty: E2B_API_URL, else the
	// address of the server that uses DataDir, else http://127.0.0.1:7280.
	APIURL string
	// SandboxURL is the base of the data plane. If empty: E2B_SANDBOX_URL, else
	// APIURL.
	SandboxURL string
	// APIKey is sent to the control plane. If empty: E2B_API_KEY, else, if
	// APIURL is the address of the server that uses DataDir, that server's first
	// key. New does not check it.
	APIKey string
	// DataDir is the data directory of a server on this machine. If empty:
	// SANDLOT_DATA_DIR, else /var/lib/sandlot.
	DataDir string
	// HTTPClient sends all requests. If it or its Transport is nil, the client has
	// its own, which keeps connections open and asks for no compression. It must
	// not have a Timeout, which would cut streams.
	HTTPClient *http.Client
	// Env looks up environment variables; nil means os.Getenv.
	Env func(string) string
}

// fill completes o from the environment and the data directory.
func (o *Options) fill() error {
	if o.Env == nil {
		o.Env = os.Getenv
	}
	setDefault(&o.DataDir, o.Env("SANDLOT_DATA_DIR"), defaultDataDir)
	local, err := localServer(o.DataDir)
	if err != nil {
		return err
	}
	setDefault(&o.APIURL, o.Env("E2B_API_URL"), local, defaultURL)
	o.APIURL = strings.TrimRight(o.APIURL, "/")
	setDefault(&o.SandboxURL, o.Env("E2B_SANDBOX_URL"), o.APIURL)
	o.SandboxURL = strings.TrimRight(o.SandboxURL, "/")
	setDefault(&o.APIKey, o.Env("E2B_API_KEY"))
	if o.APIKey == "" && o.APIURL == local {
		// Only its own server gets the key of the data directory.
		o.APIKey = localKey(o.DataDir)
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{}
	}
	if o.HTTPClient.Transport == nil {
		hc := *o.HTTPClient
		hc.Transport = newTransport()
		o.HTTPClient = &hc
	}
	return errors.Join(checkURL(o.APIURL), checkURL(o.SandboxURL))
}

// setDefault gives an empty field the first value that is not empty.
func setDefault(field *string, values ...string) {
	for _, v := range values {
		if *field == "" {
			*field = v
		}
	}
}

// localServer returns the address in a data directory's server.json, or "" if
// no server has written one or it may not be read.
func localServer(dir string) (string, error) {
	path := filepath.Join(dir, "server.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var server struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(text, &server); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return strings.TrimRight(server.URL, "/"), nil
}

func localKey(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "api-key"))
	if err != nil {
		return "" // the server will say that a key is missing
	}
	return strings.TrimSpace(string(text))
}

func checkURL(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return &Error{Code: http.StatusBadRequest, Message: fmt.Sprintf("%q is not the URL of a server", base)}
	}
	return nil
}

const (
	dialTimeout = 10 * time.Second
	idleTimeout = 90 * time.Second
	// idleMost is how many connections are kept: every running command holds
	// one, and a burst of creates should not dial anew.
	idleMost   = 256
	bufferSize = 64 << 10
)

// newTransport makes a transport for few servers and many connections. It asks
// for no compression, which costs more than it saves where most servers are on
// the same machine.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: idleMost,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true,
		ReadBufferSize:      bufferSize,
		WriteBufferSize:     bufferSize,
	}
}
