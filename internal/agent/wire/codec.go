package wire

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/gen/envd/process"
)

// jsonCodec is the protobuf JSON mapping, with the messages written by hand that
// are many or large: a process's events and the entries of a directory.
// Reflection would cost more than the rest of the reply.
type jsonCodec struct{}

// Name makes this the codec of the JSON content types.
func (jsonCodec) Name() string { return "json" }

// Marshal encodes a protobuf message.
func (c jsonCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend encodes a protobuf message onto dst. Connect finds it by its name.
func (jsonCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	switch m := message.(type) {
	case *filesystem.ListDirResponse:
		return appendList(dst, m), nil
	case *process.StartResponse:
		if out, ok := appendEvent(dst, m.GetEvent()); ok {
			return out, nil
		}
	case *process.ConnectResponse:
		if out, ok := appendEvent(dst, m.GetEvent()); ok {
			return out, nil
		}
	}
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return protojson.MarshalOptions{}.MarshalAppend(dst, m)
}

// Unmarshal decodes a protobuf message and ignores fields it does not know, so
// that newer clients work.
func (jsonCodec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	return UnmarshalJSON(data, m)
}

// UnmarshalJSON decodes a message and ignores fields it does not know.
func UnmarshalJSON(data []byte, m proto.Message) error {
	if len(data) == 0 {
		return errors.New("the body is empty; send a JSON object")
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
}

// appendEvent appends {"event":{…}} for the events without free text.
func appendEvent(dst []byte, event *process.ProcessEvent) ([]byte, bool) {
	switch e := event.GetEvent().(type) {
	case *process.ProcessEvent_Start:
		dst = append(dst, `{"event":{"start":{"pid":`...)
		dst = strconv.AppendUint(dst, uint64(e.Start.GetPid()), 10)
		return append(dst, `}}}`...), true
	case *process.ProcessEvent_Data:
		return appendData(dst, e.Data)
	case *process.ProcessEvent_Keepalive:
		return append(dst, `{"event":{"keepalive":{}}}`...), true
	default:
		return dst, false
	}
}

func appendData(dst []byte, data *process.ProcessEvent_DataEvent) ([]byte, bool) {
	var name string
	var output []byte
	switch o := data.GetOutput().(type) {
	case *process.ProcessEvent_DataEvent_Stdout:
		name, output = "stdout", o.Stdout
	case *process.ProcessEvent_DataEvent_Stderr:
		name, output = "stderr", o.Stderr
	case *process.ProcessEvent_DataEvent_Pty:
		name, output = "pty", o.Pty
	default:
		return dst, false
	}
	dst = append(dst, `{"event":{"data":{"`...)
	dst = append(dst, name...)
	dst = append(dst, `":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, output)
	return append(dst, `"}}}`...), true
}
