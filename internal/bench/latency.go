package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/client"
)

// latencyTimeout bounds a row that waits for something to come back.
const latencyTimeout = time.Minute

// makeFiles makes files inside, one each 10 ms, and prints when it began to make
// each. The sandbox has the host's clock.
const makeFiles = `import sys, time
for i in range(int(sys.argv[1])):
    at = time.time_ns()
    open("watched/f%d" % i, "w").close()
    print("f%d" % i, at)
    time.sleep(0.01)
`

// watch measures from the moment a program inside begins to make a file to the
// event at the client.
func watch(ctx context.Context, b *bench) (out outcome, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, latencyTimeout, errors.New("events were missing"))
	defer cancel()
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return out, err
	}
	if err := sbx.Files.MakeDir(ctx, "watched"); err != nil {
		return out, err
	}
	watcher, err := sbx.Files.Watch(ctx, "watched")
	if err != nil {
		return out, err
	}
	defer watcher.Close()
	n := b.pick(200, 30)
	cmd, err := sbx.Commands.StartExec(ctx, []string{"python3", "-c", makeFiles, fmt.Sprint(n)})
	if err != nil {
		return out, err
	}
	seen := map[string]time.Time{}
	for event, err := range watcher.Events() {
		if err != nil {
			return out, err
		}
		if _, twice := seen[event.Name]; !twice {
			seen[event.Name] = time.Now()
		}
		if len(seen) == n {
			break
		}
	}
	res, err := cmd.Wait(ctx)
	if err != nil {
		return out, err
	}
	for line := range strings.Lines(res.Stdout) {
		var name string
		var at int64
		if _, err := fmt.Sscan(line, &name, &at); err != nil {
			return out, fmt.Errorf("read %q: %w", line, err)
		}
		out.samples = append(out.samples, float64(seen[name].UnixNano()-at)/1e6)
	}
	return out, nil
}

// echo measures from a key sent to a terminal to its echo, which the kernel
// makes: the program on it reads nothing.
func echo(ctx context.Context, b *bench) (out outcome, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, latencyTimeout, errors.New("the terminal did not echo"))
	defer cancel()
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return out, err
	}
	start := `{"process":{"cmd":"sleep","args":["600"]},"pty":{"size":{"cols":80,"rows":24}}}`
	res, err := post(ctx, sbx, "Start", "application/connect+json", envelope([]byte(start)))
	if err != nil {
		return out, err
	}
	defer func() { _ = res.Body.Close() }()
	first, err := nextEvent(res.Body)
	if err != nil {
		return out, fmt.Errorf("read the start event: %w", err)
	}
	if first.Start == nil {
		return out, errors.New("the first event is not start")
	}
	input := fmt.Appendf(nil, `{"process":{"pid":%d},"input":{"pty":"%s"}}`, first.Start.PID, base64.StdEncoding.EncodeToString([]byte("x")))
	for i := range b.pick(300, 50) + warmups {
		begun := time.Now()
		reply, err := post(ctx, sbx, "SendInput", "application/json", input)
		if err != nil {
			return out, err
		}
		if _, err := io.Copy(io.Discard, reply.Body); err != nil {
			return out, err
		}
		_ = reply.Body.Close()
		event, err := nextEvent(res.Body)
		if err != nil {
			return out, fmt.Errorf("read the echo: %w", err)
		}
		if string(event.Data.PTY) != "x" {
			return out, fmt.Errorf("%q came back instead of the key", event.Data.PTY)
		}
		if i >= warmups {
			out.samples = append(out.samples, ms(begun))
		}
	}
	return out, nil
}

// post calls the process service as the SDKs do.
func post(ctx context.Context, sbx *client.Sandbox, method, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sandbox/process.Process/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Connect-Protocol-Version", "1")
	res, err := sbx.Transport(agentPort).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return nil, errors.Join(fmt.Errorf("%s: %s: %s", method, res.Status, text), res.Body.Close())
	}
	return res, nil
}

// envelope frames a message of a stream.
func envelope(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// processEvent is what is looked at of a process's event.
type processEvent struct {
	Start *struct {
		PID int `json:"pid"`
	} `json:"start"`
	Data struct {
		PTY []byte `json:"pty"`
	} `json:"data"`
}

// maxEvent bounds an event, in bytes.
const maxEvent = 1 << 20

func nextEvent(stream io.Reader) (processEvent, error) {
	var message struct {
		Event processEvent `json:"event"`
	}
	var head [5]byte
	if _, err := io.ReadFull(stream, head[:]); err != nil {
		return message.Event, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxEvent {
		return message.Event, fmt.Errorf("an event of %d bytes", size)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(stream, text); err != nil {
		return message.Event, err
	}
	err := json.Unmarshal(text, &message)
	return message.Event, err
}
