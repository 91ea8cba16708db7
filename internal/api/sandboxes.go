package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Defaults of E2B's interface, in seconds, and the largest page.
const (
	defaultTimeoutV1 = 15
	defaultTimeoutV2 = 300
	defaultRefresh   = 15
	maxPage          = 100
)

func sandboxID(r *http.Request) sandbox.ID { return sandbox.ID(r.PathValue("sandboxID")) }

func or[T any](p *T, absent T) T {
	if p == nil {
		return absent
	}
	return *p
}

func (s *server) createSandbox(w http.ResponseWriter, r *http.Request) error {
	return s.create(w, r, version{timeout: defaultTimeoutV1, insecure: true})
}

func (s *server) createSandboxV2(w http.ResponseWriter, r *http.Request) error {
	return s.create(w, r, version{timeout: defaultTimeoutV2})
}

// version is what differs between the versions of a create.
type version struct {
	timeout int // when none is given, in seconds
	// insecure says that a request which does not ask for a secured sandbox means
	// an open one; control decides whether it gets one.
	insecure bool
}

// create serves both versions: the newer request is the older one without
// "secure".
func (s *server) create(w http.ResponseWriter, r *http.Request, v version) error {
	body := rest.NewSandbox{Timeout: &v.timeout}
	if err := decode(w, r, &body, false); err != nil {
		return err
	}
	if err := checkFeatures(body); err != nil {
		return err
	}
	req, err := createRequest(body, v.timeout)
	if err != nil {
		return err
	}
	req.Insecure = v.insecure && !or(body.Secure, false)
	made, err := s.control.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusCreated, s.toSandbox(made))
}

func createRequest(body rest.NewSandbox, timeout int) (control.CreateRequest, error) {
	req := control.CreateRequest{
		Template: body.TemplateID, Timeout: seconds(or(body.Timeout, timeout)),
		Metadata: body.Metadata, Env: body.EnvVars, AllowInternet: body.AllowInternetAccess,
		AutoPause: or(body.AutoPause, false), AutoPauseMemory: or(body.AutoPauseMemory, true),
		AutoResume: body.AutoResume != nil && body.AutoResume.Enabled,
	}
	if body.Network == nil {
		return req, nil
	}
	network, err := json.Marshal(body.Network)
	if err != nil {
		return req, fmt.Errorf("encode network: %w", err)
	}
	req.Network = network
	req.Ports = control.PortOptions{
		Private: !or(body.Network.AllowPublicTraffic, true), MaskHost: or(body.Network.MaskRequestHost, ""),
		HTTPS: body.Network.HTTPSPorts,
	}
	return req, nil
}

// checkFeatures refuses what this version cannot do: to accept and ignore it
// would leave a sandbox open that was meant to be closed. Values that ask for
// nothing, which SDKs send by default, pass.
func checkFeatures(body rest.NewSandbox) error {
	n := or(body.Network, rest.NetworkConfig{})
	for _, f := range []struct {
		asked bool
		name  string
	}{
		{len(body.VolumeMounts) > 0, "volumeMounts"},
		{body.Mcp != nil, "mcp"},
		{body.Iam != nil && len(body.Iam.Tokens) > 0, "iam"},
		{!or(body.AllowInternetAccess, true), "allow_internet_access=false"},
		{len(n.AllowOut) > 0, "network.allowOut"},
		{len(n.DenyOut) > 0, "network.denyOut"},
		{len(n.Rules) > 0, "network.rules"},
		{n.EgressProxy != nil, "network.egressProxy"},
	} {
		if f.asked {
			return errUnsupported(f.name)
		}
	}
	return nil
}

func (s *server) listSandboxes(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, "metadata")
	req := control.ListRequest{Metadata: q.pairs("metadata"), States: []sandbox.State{sandbox.Running}}
	if q.err != nil {
		return q.err
	}
	page, err := s.control.List(req)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, toList(page.Sandboxes, toListed))
}

func (s *server) listSandboxesV2(w http.ResponseWriter, r *http.Request) error {
	req, err := listRequest(r)
	if err != nil {
		return err
	}
	page, err := s.control.List(req)
	if err != nil {
		return err
	}
	w.Header().Set("X-Total-Running", strconv.Itoa(page.TotalRunning))
	if page.NextToken != "" {
		w.Header().Set("X-Next-Token", page.NextToken)
	}
	return s.writeJSON(w, http.StatusOK, toList(page.Sandboxes, toListed))
}

func listRequest(r *http.Request) (control.ListRequest, error) {
	q := parseQuery(r, "metadata", "state", "template", "startedAfter", "order", "limit", "nextToken")
	req := control.ListRequest{
		Metadata:     q.pairs("metadata"),
		Template:     q.text("template"),
		StartedAfter: q.time("startedAfter"),
		OldestFirst:  q.oneOf("order", "desc", "asc") == "asc",
		Limit:        q.integer("limit", 1, maxPage, maxPage),
		PageToken:    q.text("nextToken"),
	}
	if q.err != nil {
		return req, q.err
	}
	var err error
	if states := q.text("state"); states != "" {
		req.States, err = control.ParseStates(states)
	}
	return req, err
}

func (s *server) getSandbox(w http.ResponseWriter, r *http.Request) error {
	found, err := s.control.Get(sandboxID(r))
	if err != nil {
		return err
	}
	detail, err := s.toDetail(found)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, detail)
}

func (s *server) killSandbox(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, s.control.Kill(r.Context(), sandboxID(r)))
}

func (s *server) setTimeout(w http.ResponseWriter, r *http.Request) error {
	var body rest.TimeoutRequest
	if err := decode(w, r, &body, false); err != nil {
		return err
	}
	return noContent(w, s.control.SetTimeout(r.Context(), sandboxID(r), seconds(body.Timeout)))
}

func (s *server) refreshSandbox(w http.ResponseWriter, r *http.Request) error {
	var body rest.RefreshRequest
	if err := decode(w, r, &body, true); err != nil {
		return err
	}
	return noContent(w, s.control.Refresh(r.Context(), sandboxID(r), seconds(or(body.Duration, defaultRefresh))))
}

func (s *server) connectSandbox(w http.ResponseWriter, r *http.Request) error {
	var body rest.ConnectRequest
	if err := decode(w, r, &body, false); err != nil {
		return err
	}
	return s.connect(w, r, body.Timeout)
}

func (s *server) connectSandboxV2(w http.ResponseWriter, r *http.Request) error {
	var body rest.ConnectRequestV2
	if err := decode(w, r, &body, true); err != nil {
		return err
	}
	return s.connect(w, r, or(body.Timeout, defaultTimeoutV2))
}

func (s *server) connect(w http.ResponseWriter, r *http.Request, timeout int) error {
	found, err := s.control.Connect(r.Context(), sandboxID(r), seconds(timeout))
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, s.toSandbox(found))
}

func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}
