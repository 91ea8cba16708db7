package wire

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// roundTrip encodes with the codec and decodes with protobuf's own.
func roundTrip(t *testing.T, message proto.Message) {
	t.Helper()
	text, err := jsonCodec{}.MarshalAppend([]byte("x"), message)
	if err != nil {
		t.Fatal(err)
	}
	got := message.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(text[1:], got); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if d := cmp.Diff(message, got, protocmp.Transform()); d != "" {
		t.Errorf("%s (-sent +read):\n%s", text, d)
	}
}

func TestCodecAgreesWithProtobuf(t *testing.T) {
	data := func(d *process.ProcessEvent_DataEvent) *process.ProcessEvent {
		return &process.ProcessEvent{Event: &process.ProcessEvent_Data{Data: d}}
	}
	text := "exit \"status\" 1"
	for _, e := range []*process.ProcessEvent{
		{Event: &process.ProcessEvent_Start{Start: &process.ProcessEvent_StartEvent{Pid: 4294967295}}},
		{Event: &process.ProcessEvent_Keepalive{Keepalive: &process.ProcessEvent_KeepAlive{}}},
		{Event: &process.ProcessEvent_End{End: &process.ProcessEvent_EndEvent{ExitCode: -1, Status: text, Error: &text}}},
		data(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stdout{Stdout: []byte("\x00\xff ü")}}),
		data(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stderr{Stderr: []byte{}}}),
		data(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Pty{Pty: []byte("p")}}),
		data(&process.ProcessEvent_DataEvent{}),
		{},
	} {
		roundTrip(t, &process.StartResponse{Event: e})
		roundTrip(t, &process.ConnectResponse{Event: e})
	}
	roundTrip(t, &process.StartResponse{})
	roundTrip(t, &filesystem.ListDirResponse{})
	roundTrip(t, &filesystem.ListDirResponse{Entries: []*filesystem.EntryInfo{{}, {Name: "x"}}})
}

// FuzzEntry finds entries whose JSON protobuf reads otherwise.
func FuzzEntry(f *testing.F) {
	f.Add("name", "/path\"\\\x01\u2028", int64(1), uint32(0o644), int32(1), int64(1_700_000_000), int32(120_000_000))
	f.Add("\xff", "", int64(-1), uint32(0), int32(3), int64(-62135596800), int32(999_999_999))
	f.Add("", "\u00fc\U0001f600", int64(1)<<62, uint32(7), int32(99), int64(253402300799), int32(1_000))
	f.Fuzz(func(t *testing.T, name, path string, size int64, mode uint32, kind int32, seconds int64, nanos int32) {
		name, path = strings.ToValidUTF8(name, "?"), strings.ToValidUTF8(path, "?")
		seconds = min(max(seconds, -62135596800), 253402300799)
		nanos = min(max(nanos, 0), 999_999_999)
		e := &filesystem.EntryInfo{
			Name: name, Path: path, Size: size, Mode: mode, Type: filesystem.FileType(min(max(kind, 0), 3)),
			Owner: path, Group: name, Permissions: path, SymlinkTarget: &name, Metadata: map[string]string{name: path, "k": "v"},
			ModifiedTime: &timestamppb.Timestamp{Seconds: seconds, Nanos: nanos},
		}
		roundTrip(t, &filesystem.ListDirResponse{Entries: []*filesystem.EntryInfo{e, e}})
	})
}

func TestUnmarshal(t *testing.T) {
	var m filesystem.StatRequest
	if err := (jsonCodec{}).Unmarshal([]byte(`{"path":"/x","later":{}}`), &m); err != nil || m.GetPath() != "/x" {
		t.Errorf("%v, %v", &m, err)
	}
	for _, bad := range []string{"", "[]", `{"path":1}`, "{"} {
		if err := (jsonCodec{}).Unmarshal([]byte(bad), &m); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestErrorCodes(t *testing.T) {
	for _, kind := range errs.Kinds() {
		err := Error(errs.New(kind, "text"))
		if got := connect.CodeOf(err).String(); got != kind.ConnectCode() {
			t.Errorf("kind %v: code %s, want %s", kind, got, kind.ConnectCode())
		}
	}
	if err := Error(errors.New("secret")); strings.Contains(err.Error(), "secret") {
		t.Errorf("an unclassified error shows its text: %v", err)
	}
	if Error(nil) != nil {
		t.Error("nil became an error")
	}
}

func TestErrno(t *testing.T) {
	for cause, kind := range map[error]errs.Kind{
		&os.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}: errs.NotFound,
		fmt.Errorf("wrapped: %w", syscall.EDQUOT):                  errs.NoSpace,
		syscall.EROFS:            errs.Forbidden,
		syscall.EIO:              errs.Internal,
		context.DeadlineExceeded: errs.Timeout,
	} {
		err := Errno(cause, "read", "/x")
		if errs.KindOf(err) != kind || !strings.HasPrefix(errs.PublicMessage(err), "read /x: ") {
			t.Errorf("%v: %v, %q", cause, errs.KindOf(err), errs.PublicMessage(err))
		}
	}
}

func TestWriteError(t *testing.T) {
	w := httptest.NewRecorder()
	WriteError(w, errs.New(errs.NoSpace, "the disk is \"full\""))
	if got := w.Body.String(); w.Code != 507 || got != `{"code":507,"message":"the disk is \"full\""}`+"\n" {
		t.Errorf("%d %s", w.Code, got)
	}
}
