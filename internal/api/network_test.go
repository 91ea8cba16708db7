package api_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// What a create says about ports comes back in the detail, reaches the registry,
// and the token comes with create and connect.
func TestPortOptions(t *testing.T) {
	for _, path := range []string{"/sandboxes", "/v2/sandboxes"} {
		r := start(t, control.Options{})
		const network = `{"allowPublicTraffic":false,"maskRequestHost":"app.test:${PORT}","httpsPorts":[8443,443,443]}`
		var made, again rest.Sandbox
		unmarshal(t, r.do(t, "POST", path, `{"templateID":"base","network":`+network+`}`).Body.Bytes(), &made)
		row, err := r.control.Get(sandbox.ID(made.SandboxID))
		if err != nil {
			t.Fatal(err)
		}
		if made.TrafficAccessToken == nil || *made.TrafficAccessToken != row.TrafficToken || len(row.TrafficToken) != 40 || row.TrafficToken == row.AccessToken {
			t.Errorf("%s: traffic token %v, the row has %q", path, made.TrafficAccessToken, row.TrafficToken)
		}
		if row.MaskHost != "app.test:${PORT}" || !slices.Equal(row.HTTPSPorts, []uint16{443, 8443}) {
			t.Errorf("%s: row has mask %q and ports %v", path, row.MaskHost, row.HTTPSPorts)
		}
		unmarshal(t, r.do(t, "POST", "/v2/sandboxes/"+made.SandboxID+"/connect", `{}`).Body.Bytes(), &again)
		if again.TrafficAccessToken == nil || *again.TrafficAccessToken != row.TrafficToken {
			t.Errorf("%s: connect returned the traffic token %v", path, again.TrafficAccessToken)
		}
		var detail rest.SandboxDetail
		unmarshal(t, r.do(t, "GET", "/sandboxes/"+made.SandboxID, "").Body.Bytes(), &detail)
		n := detail.Network
		if n == nil || n.AllowPublicTraffic == nil || *n.AllowPublicTraffic || *n.MaskRequestHost != row.MaskHost || len(n.HTTPSPorts) != 3 {
			t.Errorf("%s: detail has network %+v", path, n)
		}
	}
}

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
}

// Without allow_insecure_v1 every sandbox is secured; with it, those of a create
// of version 1 that does not ask for it are not.
func TestInsecure(t *testing.T) {
	for _, tc := range []struct {
		allow          bool
		path, secure   string
		wantToken      bool
		wantAuthorized bool // without a token
	}{
		{false, "/sandboxes", ``, true, false},
		{false, "/sandboxes", `,"secure":false`, true, false},
		{false, "/v2/sandboxes", ``, true, false},
		{true, "/sandboxes", ``, false, true},
		{true, "/sandboxes", `,"secure":false`, false, true},
		{true, "/sandboxes", `,"secure":null`, false, true},
		{true, "/sandboxes", `,"secure":true`, true, false},
		{true, "/v2/sandboxes", ``, true, false},
	} {
		r := start(t, control.Options{AllowInsecure: tc.allow})
		var made rest.Sandbox
		unmarshal(t, r.do(t, "POST", tc.path, `{"templateID":"base"`+tc.secure+`}`).Body.Bytes(), &made)
		if got := made.EnvdAccessToken != nil; got != tc.wantToken {
			t.Errorf("%+v: has a token: %v", tc, got)
		}
		var detail rest.SandboxDetail
		unmarshal(t, r.do(t, "GET", "/sandboxes/"+made.SandboxID, "").Body.Bytes(), &detail)
		if got := detail.EnvdAccessToken != nil; got != tc.wantToken {
			t.Errorf("%+v: the detail has a token: %v", tc, got)
		}
		if got := r.control.Authorize(sandbox.ID(made.SandboxID), "") == nil; got != tc.wantAuthorized {
			t.Errorf("%+v: authorized without a token: %v", tc, got)
		}
	}
}
