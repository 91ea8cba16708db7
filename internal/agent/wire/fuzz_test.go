package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
)

// harmless answers what the fuzzer asks for without doing it.
type harmless struct {
	processconnect.UnimplementedProcessHandler
	filesystemconnect.UnimplementedFilesystemHandler
}

func (harmless) Start(_ context.Context, req *connect.Request[process.StartRequest], stream *connect.ServerStream[process.StartResponse]) error {
	return stream.Send(&process.StartResponse{Event: &process.ProcessEvent{Event: &process.ProcessEvent_Data{
		Data: &process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stdout{Stdout: []byte(req.Msg.GetProcess().GetCmd())}},
	}}})
}

func (harmless) StreamInput(_ context.Context, stream *connect.ClientStream[process.StreamInputRequest]) (*connect.Response[process.StreamInputResponse], error) {
	for stream.Receive() {
		if stream.Msg() == nil {
			panic("a message that is none")
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&process.StreamInputResponse{}), nil
}

func (harmless) Stat(_ context.Context, req *connect.Request[filesystem.StatRequest]) (*connect.Response[filesystem.StatResponse], error) {
	return connect.NewResponse(&filesystem.StatResponse{Entry: &filesystem.EntryInfo{Path: req.Msg.GetPath()}}), nil
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(processconnect.NewProcessHandler(harmless{}, HandlerOptions()...))
	mux.Handle(filesystemconnect.NewFilesystemHandler(harmless{}, HandlerOptions()...))
	return mux
}

func frame(flags byte, length uint32, body string) string {
	head := binary.BigEndian.AppendUint32([]byte{flags}, length)
	return string(head) + body
}

// routes the fuzzer may choose from.
var routes = []string{
	processconnect.ProcessStartProcedure, processconnect.ProcessStreamInputProcedure, filesystemconnect.FilesystemStatProcedure,
}

// call sends one request as it came over the wire.
func call(h http.Handler, route int, contentType, encoding, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, routes[route], strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	if encoding != "" {
		r.Header.Set("Connect-Content-Encoding", encoding)
		r.Header.Set("Content-Encoding", encoding)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// ending returns the error code in a reply, "" for success, and whether the reply
// is a whole one.
func ending(w *httptest.ResponseRecorder) (code string, whole bool) {
	var reply struct {
		Code  string                `json:"code"`
		Error struct{ Code string } `json:"error"`
	}
	body := w.Body.Bytes()
	switch kind := w.Header().Get("Content-Type"); {
	case w.Code == http.StatusUnsupportedMediaType:
		return "unsupported", true
	case strings.HasPrefix(kind, "application/connect+"):
		for len(body) >= 5 {
			length := int(binary.BigEndian.Uint32(body[1:5]))
			if len(body) < 5+length {
				return "", false
			}
			if body[0]&2 != 0 {
				err := json.Unmarshal(body[5:5+length], &reply)
				return reply.Error.Code, err == nil && len(body) == 5+length
			}
			body = body[5+length:]
		}
		return "", false
	case w.Code == http.StatusOK:
		return "", true
	default:
		err := json.Unmarshal(body, &reply)
		return reply.Code, err == nil && reply.Code != ""
	}
}

// TestEnvelopes fixes the codes of what is no proper message. A stream cut off
// is "internal" in Connect's own reading; who sent it is gone.
func TestEnvelopes(t *testing.T) {
	const stream, unary = "application/connect+json", "application/json"
	hello := frame(0, 2, "{}")
	for what, test := range map[string]struct {
		route                      int
		kind, encoding, body, code string
	}{
		"start":                        {0, stream, "", hello, ""},
		"input":                        {1, stream, "", hello + hello + hello, ""},
		"stat":                         {2, unary, "", "{}", ""},
		"no frame":                     {0, stream, "", "", "unimplemented"},
		"half a head":                  {0, stream, "", "\x00\x00", "internal"},
		"half a body":                  {0, stream, "", frame(0, 9, "{}"), "internal"},
		"more than the limit":          {0, stream, "", frame(0, MaxMessageBytes+1, "{}"), "resource_exhausted"},
		"4 GiB":                        {1, stream, "", frame(0, 1<<32-1, ""), "resource_exhausted"},
		"compressed without a method":  {0, stream, "", frame(1, 2, "{}"), "internal"},
		"compressed, but not":          {0, stream, "gzip", frame(1, 2, "{}"), "invalid_argument"},
		"unknown compression":          {0, stream, "br", hello, "unimplemented"},
		"not JSON":                     {0, stream, "", frame(0, 1, "{"), "invalid_argument"},
		"input cut off":                {1, stream, "", hello + "\x00", "internal"},
		"unary not JSON":               {2, unary, "", "{", "invalid_argument"},
		"unary empty":                  {2, unary, "", "", "invalid_argument"},
		"unary, invalid UTF-8":         {2, unary, "", "{\"path\":\"\xff\"}", "invalid_argument"},
		"unary deep":                   {2, unary, "", strings.Repeat("[", 100_000), "invalid_argument"},
		"unary too long":               {2, unary, "", strings.Repeat(" ", MaxMessageBytes+1), "resource_exhausted"},
		"protobuf damaged":             {2, "application/proto", "", "\x0a\xff", "invalid_argument"},
		"protobuf with invalid UTF-8":  {2, "application/proto", "", "\x0a\x01\xff", "invalid_argument"},
		"a form":                       {0, "multipart/form-data", "", hello, "unsupported"},
		"a unary body for a stream":    {0, unary, "", "{}", "unsupported"},
		"a stream's body, second half": {0, stream, "", "{}" + hello, "resource_exhausted"},
	} {
		w := call(handler(), test.route, test.kind, test.encoding, test.body)
		if code, whole := ending(w); code != test.code || !whole {
			t.Errorf("%s: %q (whole: %v), want %q: %d %.200q", what, code, whole, test.code, w.Code, w.Body)
		}
	}
}

// FuzzEnvelope sends anything as the body of a call: there is an answer, whole
// and of a known kind.
func FuzzEnvelope(f *testing.F) {
	f.Add(uint8(0), "application/connect+json", "", frame(0, 2, "{}"))
	f.Add(uint8(1), "application/connect+json", "gzip", frame(0, 2, "{}")+frame(1, 2, "{}"))
	f.Add(uint8(1), "application/connect+proto", "", frame(0, 0, "")+frame(2, 2, "{}"))
	f.Add(uint8(2), "application/json", "", `{"path":"/\u0000"}`)
	f.Add(uint8(2), "application/proto", "gzip", "\x1f\x8b")
	f.Add(uint8(0), "application/grpc-web+json", "", frame(128, 0, ""))
	f.Add(uint8(1), "application/connect+json", "", frame(0, 1<<32-1, ""))
	h := handler()
	f.Fuzz(func(t *testing.T, route uint8, contentType, encoding, body string) {
		w := call(h, int(route)%len(routes), contentType, encoding, body)
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/grpc") {
			return // its endings are trailers
		}
		if code, whole := ending(w); !whole || code == "unknown" {
			t.Errorf("%q, whole: %v: %d %v %.300q", code, whole, w.Code, w.Header(), w.Body)
		}
	})
}

// FuzzUnmarshal reads anything as the messages clients send, and what can be
// read can be written and read again.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"process":{"cmd":"x","args":["a"],"envs":{"K":"v"}},"pty":{"size":{"cols":80}},"tag":"t","stdin":false}`))
	f.Add([]byte(`{"path":"/x","depth":1e1,"unknown":[{"a":null}]}`))
	f.Add([]byte("{\"path\":\"\\ud800\xff\"}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, m := range []proto.Message{&process.StartRequest{}, &process.StreamInputRequest{}, &filesystem.ListDirRequest{}, &filesystem.ListDirResponse{}} {
			if UnmarshalJSON(text, m) != nil {
				continue
			}
			again, err := jsonCodec{}.MarshalAppend(nil, m)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			got := m.ProtoReflect().New().Interface()
			if err := UnmarshalJSON(again, got); err != nil || !proto.Equal(m, got) {
				t.Errorf("%q became %s: %v", text, again, err)
			}
		}
	})
}

// TestLargeMessage sends the largest message there may be.
func TestLargeMessage(t *testing.T) {
	const around = len(`{"path":""}`)
	body := `{"path":"` + strings.Repeat("x", MaxMessageBytes-around) + `"}`
	r := httptest.NewRequest(http.MethodPost, routes[2], io.MultiReader(bytes.NewReader([]byte(body))))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK || w.Body.Len() < MaxMessageBytes-around {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
}
