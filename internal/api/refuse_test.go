package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// TestBadRequests sends everything that can be wrong; the message must help.
func TestBadRequests(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, `{"templateID":"base"}`)
	box := "/sandboxes/" + s.SandboxID
	gone := "/sandboxes/" + string(sandbox.NewID())
	huge := `{"templateID":"` + strings.Repeat("x", 1<<20) + `"}`
	for _, tc := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/v2/sandboxes", ``, 400, "body is empty"},
		{"POST", "/v2/sandboxes", `{`, 400, "middle"},
		{"POST", "/v2/sandboxes", `nonsense`, 400, "not JSON"},
		{"POST", "/v2/sandboxes", `[]`, 400, "the body must be an object, not array"},
		{"POST", "/v2/sandboxes", `"base"`, 400, "an object, not string"},
		{"POST", "/v2/sandboxes", `null`, 400, "templateID"},
		{"POST", "/v2/sandboxes", `{}`, 400, "templateID"},
		{"POST", "/v2/sandboxes", `{"templateID":""}`, 400, "templateID"},
		{"POST", "/v2/sandboxes", `{"templateID":7}`, 400, "templateID must be a string, not number"},
		{"POST", "/v2/sandboxes", `{"templateID":"base"} {}`, 400, "after the JSON"},
		{"POST", "/v2/sandboxes", `{"templateID":"base"}}`, 400, "after the JSON"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","tiemout":5}`, 400, `"tiemout"`},
		{"POST", "/v2/sandboxes", `{"templateID":"nope"}`, 404, `"nope"`},
		{"POST", "/v2/sandboxes", huge, 413, "1048576"},
		{"POST", "/v2/sandboxes", "{\"templateID\":\"\xff\"}", 400, "UTF-8"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":0}`, 400, "at least 1 second"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":-5}`, 400, "-5"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":2592001}`, 400, "2592000"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":9223372036854775807}`, 400, "2592000"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":18446744074}`, 400, "2592000"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":99999999999999999999}`, 400, "timeout must be a whole number"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":1.5}`, 400, "timeout must be a whole number"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","timeout":"60"}`, 400, "timeout must be a whole number, not string"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","metadata":{"a":1}}`, 400, "metadata"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","metadata":[]}`, 400, "metadata must be an object, not array"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","envVars":{"A=B":"x"}}`, 400, "A=B"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","autoPause":"yes"}`, 400, "autoPause must be true or false"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"allowOut":"x"}}`, 400, "network.allowOut must be an array"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"allowIn":[]}}`, 400, `"allowIn"`},
		{"POST", "/v2/sandboxes", `{"templateID":"base","autoPause":true}`, 501, "autoPause"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","autoResume":{"enabled":true}}`, 501, "autoResume"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","allow_internet_access":false}`, 501, "allow_internet_access"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"allowOut":["1.1.1.1"]}}`, 501, "network.allowOut"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"denyOut":["1.1.1.1"]}}`, 501, "network.denyOut"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"maskRequestHost":"a b"}}`, 400, "maskRequestHost"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"maskRequestHost":"a\r\nX-A: b"}}`, 400, "maskRequestHost"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"maskRequestHost":"${port}"}}`, 400, "maskRequestHost"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"maskRequestHost":"` + strings.Repeat("a", 513) + `"}}`, 400, "512"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"httpsPorts":[0]}}`, 400, "httpsPorts: 0"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"httpsPorts":[65536]}}`, 400, "65535"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"httpsPorts":[49983]}}`, 400, "49983"},
		{"POST", "/sandboxes", `{"templateID":"base","network":{"httpsPorts":[49983]}}`, 400, "49983"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"egressProxy":{"address":"a:1"}}}`, 501, "egressProxy"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","network":{"rules":{"a":[]}}}`, 501, "network.rules"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","mcp":{}}`, 501, "mcp"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","iam":{"tokens":{"a":{"audience":"b","tokenType":"c"}}}}`, 501, "iam"},
		{"POST", "/v2/sandboxes", `{"templateID":"base","volumeMounts":[{"name":"v","path":"/v"}]}`, 501, "volumeMounts"},
		{"POST", "/sandboxes", `{"templateID":"nope"}`, 404, `"nope"`},

		{"GET", "/v2/sandboxes?limit=0", ``, 400, "1 to 100"},
		{"GET", "/v2/sandboxes?limit=101", ``, 400, "1 to 100"},
		{"GET", "/v2/sandboxes?limit=x", ``, 400, "1 to 100"},
		{"GET", "/v2/sandboxes?state=stopped", ``, 400, `"stopped"`},
		{"GET", "/v2/sandboxes?order=up", ``, 400, "desc, asc"},
		{"GET", "/v2/sandboxes?startedAfter=yesterday", ``, 400, "startedAfter"},
		{"GET", "/v2/sandboxes?nextToken=zzz", ``, 400, "nextToken"},
		{"GET", "/v2/sandboxes?metadata=a%3D%25zz", ``, 400, "metadata"},
		{"GET", "/v2/sandboxes?metdata=a%3Db", ``, 400, `"metdata"`},
		{"GET", "/v2/sandboxes?a=%zz", ``, 400, "malformed"},
		{"GET", "/sandboxes?state=running", ``, 400, `"state"`},

		{"GET", gone, ``, 404, "not found"},
		{"GET", "/sandboxes/..%2f..%2fetc", ``, 404, "not found"},
		{"DELETE", gone, ``, 404, "not found"},
		{"POST", gone + "/timeout", `{"timeout":5}`, 404, "not found"},
		{"POST", gone + "/refreshes", `{}`, 404, "not found"},
		{"POST", gone + "/connect", `{"timeout":5}`, 404, "not found"},
		{"POST", "/v2" + gone + "/connect", `{}`, 404, "not found"},
		{"POST", box + "/timeout", ``, 400, "empty"},
		{"POST", box + "/timeout", `{}`, 400, "at least 1 second"},
		{"POST", box + "/timeout", `{"timeout":-1}`, 400, "at least 1 second"},
		{"POST", box + "/timeout", `{"timeout":99999999}`, 400, "at most"},
		{"POST", box + "/refreshes", `{"duration":3601}`, 400, "3600"},
		{"POST", box + "/connect", ``, 400, "empty"},
		{"POST", box + "/connect", `{"timeout":true}`, 400, "timeout must be a whole number"},
		{"POST", "/v2" + box + "/connect", `{"timeout":0}`, 400, "at least 1 second"},
		{"POST", box + "/pause", `{}`, 501, "pausing"},
		{"POST", box + "/fork", `{}`, 501, "forking"},
		{"POST", box + "/snapshots", `{}`, 501, "snapshots"},
		{"PUT", box + "/network", `{}`, 501, "network"},

		{"PATCH", "/v2/templates/base", `{"memoryMB":17592186044417}`, 400, "memoryMB is 17592186044417"},
		{"PATCH", "/v2/templates/base", `{"memoryMB":-1}`, 400, "memoryMB is -1"},
		{"PATCH", "/v2/templates/base", `{"diskSizeMB":1073741825}`, 400, "to 1073741824"},

		{"GET", "/templates/aliases/nope", ``, 404, `"nope"`},
		{"POST", "/api-keys", `{}`, 400, "name"},
		{"POST", "/api-keys", `{"name":"` + strings.Repeat("x", 129) + `"}`, 400, "128"},
		{"DELETE", "/api-keys/nope", ``, 404, `"nope"`},

		{"GET", "/templates/base/tags", ``, 501, "tags of templates"},
		{"GET", "/templates/base/other", ``, 404, "GET /templates/base/other"},
		{"GET", "/templates/aliases/tags", ``, 404, `"tags"`},
		{"GET", "/", ``, 404, "not part of this API"},
		{"GET", "/nothing/here", ``, 404, "GET /nothing/here"},
		{"GET", "/v2/sandboxes/", ``, 404, "not part of this API"},
		{"PATCH", "/sandboxes", `{}`, 405, "use GET, POST"},
		{"DELETE", "/health", ``, 405, "use GET"},
	} {
		name := tc.method + " " + tc.path + " " + tc.body
		t.Run(name[:min(len(name), 80)], func(t *testing.T) {
			w := r.do(t, tc.method, tc.path, tc.body)
			if w.Code != tc.status {
				t.Errorf("status %d, want %d: %s", w.Code, tc.status, w.Body)
			}
			var e rest.Error
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || !strings.Contains(e.Message, tc.says) {
				t.Errorf("message %q does not contain %q", e.Message, tc.says)
			}
			if tc.status == http.StatusMethodNotAllowed && w.Header().Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	if page, err := r.control.List(control.ListRequest{}); err != nil || len(page.Sandboxes) != 1 {
		t.Errorf("bad requests left %d sandboxes, want the one there was", len(page.Sandboxes))
	}
}

func TestAccess(t *testing.T) {
	r := start(t, control.Options{})
	for _, tc := range []struct {
		name, header, value string
		status              int
		says                string
	}{
		{"nothing", "", "", 401, "X-API-Key"},
		{"empty", "X-API-Key", "", 401, "X-API-Key"},
		{"unknown", "X-API-Key", control.NewKeyText(), 401, "not known"},
		{"basic", "Authorization", "Basic " + r.key, 401, "missing"},
		{"wrong bearer", "Authorization", "Bearer x", 401, "not known"},
		{"key", "X-API-Key", r.key, 200, ""},
		{"bearer", "Authorization", "bearer " + r.key, 200, ""},
	} {
		req := r.request(t, http.MethodGet, "/sandboxes", nil)
		if tc.header != "" {
			req.Header.Set(tc.header, tc.value)
		}
		w := r.send(t, req)
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.says) {
			t.Errorf("%s: %d %s", tc.name, w.Code, w.Body)
		}
		if w.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s: 401 without WWW-Authenticate", tc.name)
		}
	}
}

// TestEveryOperation asks for every operation of the specification without a
// key: each must exist, and refuse unless it is public.
func TestEveryOperation(t *testing.T) {
	r := start(t, control.Options{})
	doc, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			want := http.StatusUnauthorized
			if op.Security != nil && len(*op.Security) == 0 {
				want = http.StatusNoContent
			}
			target := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, "x")
			if w := r.send(t, r.request(t, method, target, "{}")); w.Code != want {
				t.Errorf("%s %s without a key: %d, want %d", method, target, w.Code, want)
			}
			n++
		}
	}
	if n < 15 {
		t.Errorf("only %d operations found", n)
	}
}

func TestTooMany(t *testing.T) {
	r := start(t, control.Options{MaxSandboxes: 1})
	r.create(t, `{"templateID":"base"}`)
	w := r.do(t, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`)
	if w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), "max_sandboxes") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestInternalErrorsStayInside makes the host fail in a way that has no kind.
func TestInternalErrorsStayInside(t *testing.T) {
	r := start(t, control.Options{})
	r.host.launch = func(context.Context, control.LaunchRequest) (sandbox.ID, error) {
		return "", errors.New("mount /secret/path: broken")
	}
	w := r.do(t, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`)
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(r.log.String(), "/secret/path") {
		t.Errorf("the log does not have the cause: %s", r.log)
	}
}

// TestKinds sends an error of every kind through the API.
func TestKinds(t *testing.T) {
	r := start(t, control.Options{})
	for _, k := range errs.Kinds() {
		r.host.launch = func(context.Context, control.LaunchRequest) (sandbox.ID, error) {
			return "", errs.New(k, "some %v", k).WithHint("do this")
		}
		w := r.do(t, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`)
		if w.Code != k.HTTPStatus() || !strings.Contains(w.Body.String(), "some "+k.String()+": do this") {
			t.Errorf("%v: %d %s", k, w.Code, w.Body)
		}
	}
}

func TestPanic(t *testing.T) {
	r := start(t, control.Options{})
	r.host.launch = func(context.Context, control.LaunchRequest) (sandbox.ID, error) { panic("oops") }
	w := r.do(t, http.MethodPost, "/v2/sandboxes", `{"templateID":"base"}`)
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "oops") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(r.log.String(), "oops") {
		t.Errorf("the log does not have the panic: %s", r.log)
	}
	r.host.launch = nil
	r.create(t, `{"templateID":"base"}`)
}

// TestMissingFeatures asks for what E2B has and this server has not. Clients
// take a 404 for "it does not exist", so none of it may be one.
func TestMissingFeatures(t *testing.T) {
	r := start(t, control.Options{})
	for path, methods := range map[string]string{
		"/snapshots": "GET",
		"/templates": "POST", "/templates/x": "GET POST PATCH DELETE", "/v2/templates": "GET POST", "/v3/templates": "POST",
		"/templates/tags": "POST DELETE", "/templates/x/tags": "GET", "/templates/x/files/abc": "GET",
		"/templates/x/builds/y": "POST", "/v2/templates/x/builds/y": "POST",
		"/templates/x/builds/y/status": "GET", "/templates/x/builds/y/logs": "GET",
		"/volumes": "GET POST", "/volumes/x": "GET DELETE",
		"/volumecontent/x/path": "GET PATCH DELETE", "/volumecontent/x/dir": "GET POST", "/volumecontent/x/file": "GET PUT",
		"/secrets": "GET POST", "/secrets/x": "GET POST DELETE", "/api-keys/x": "PATCH",
		"/access-tokens": "POST", "/access-tokens/x": "DELETE",
		"/teams": "GET", "/teams/x/metrics": "GET", "/teams/x/metrics/max": "GET", "/nodes": "GET", "/nodes/x": "GET POST",
		"/admin/teams/x/sandboxes/kill": "POST", "/admin/teams/x/builds/cancel": "POST", "/admin/teams/x/api-keys": "POST",
		"/admin/sandboxes/running-counts": "GET",
	} {
		for method := range strings.FieldsSeq(methods) {
			if w := r.do(t, method, path, "{}"); w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), "not available in this version") {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
}
