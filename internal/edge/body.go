package edge

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// leftoverTime and leftoverBytes bound what is waited for and read of a body
	// after the reply, so that the connection can serve the next request.
	leftoverTime  = 500 * time.Millisecond
	leftoverBytes = 256 << 10
)

// past is a deadline that interrupts at once.
var past = time.Unix(0, 0)

// requestBody is a client's body in full duplex: net/http leaves it to the
// handler then to end what was not read, before it returns. A nil requestBody is
// that of a request without one.
type requestBody struct {
	body io.ReadCloser
	w    http.ResponseWriter
	ctl  *http.ResponseController
	// http1 says that the next request follows on the same connection, expects
	// that the client may never send the body.
	http1, expects bool

	// answered says that a reply has come, interrupted that the body was cut short
	// since none will, which cancels the request.
	answered, interrupted atomic.Bool

	reading sync.Mutex // held while body is read
	mu      sync.Mutex
	err     error // of the first read that failed, io.EOF included
	closed  bool
}

// holdBody returns r with a body that remembers how it ended, and that body.
func holdBody(w http.ResponseWriter, r *http.Request) (*http.Request, *requestBody) {
	if r.Body == nil || r.Body == http.NoBody {
		return r, nil
	}
	b := &requestBody{
		body: r.Body, w: w, ctl: http.NewResponseController(w),
		http1: r.ProtoMajor == 1, expects: r.Header.Get("Expect") != "",
	}
	r = r.WithContext(r.Context()) // net/http goes by the body of its own copy
	r.Body = b
	return r, b
}

// Read reads the client's body.
func (b *requestBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	n, err := b.body.Read(p)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.err == nil {
			b.err = err
		}
	}
	return n, err
}

// Close does nothing: a transport closes bodies before there is a reply, and
// what net/http then waits for may never come. See end.
func (b *requestBody) Close() error { return nil }

func (b *requestBody) outcome() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// ended reports whether the body was read to its end.
func (b *requestBody) ended() bool { return errors.Is(b.outcome(), io.EOF) }

// fault returns what is wrong with the body as the client sent it, nil if
// nothing is known to be. Once the request has been cancelled, which a body that
// ends early does, it interrupts who reads and waits for the outcome.
func (b *requestBody) fault(cancelled bool) error {
	if b == nil {
		return nil
	}
	if cancelled && b.outcome() == nil {
		_ = b.ctl.SetReadDeadline(past)
		b.reading.Lock()
		defer b.reading.Unlock()
	}
	err := b.outcome()
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// interrupt ends the body where it is; the connection must end, too.
func (b *requestBody) interrupt() {
	if b.outcome() == nil {
		b.interrupted.Store(true)
		_ = b.ctl.SetReadDeadline(past)
	}
}

func (b *requestBody) wasInterrupted() bool { return b != nil && b.interrupted.Load() }

// end is for when the reply has been written. It lets the client have it, then
// looks for the body's end for a while. If that does not come, where the next
// request would begin is unknown: the connection ends with the reply.
func (b *requestBody) end() {
	if b == nil {
		return
	}
	if b.http1 && !b.ended() {
		_ = b.ctl.Flush()
		_ = b.ctl.SetReadDeadline(time.Now().Add(leftoverTime))
		if b.outcome() == nil && !b.expects {
			_, _ = io.CopyN(io.Discard, b, leftoverBytes)
		}
		if !b.ended() {
			closeAfterReply(b.w)
			b.abandon()
			return
		}
	}
	b.closed = true
	_ = b.body.Close()
}

// abandon is for when the connection ends: nobody may read the body after the
// handler has returned. After end it does nothing.
func (b *requestBody) abandon() {
	if b == nil || b.closed {
		return
	}
	b.closed = true
	if b.http1 && !b.ended() {
		_ = b.ctl.SetReadDeadline(past)
	}
	_ = b.body.Close()
}

// closeAfterReply makes net/http close the connection once the reply is out. When
// its header is, a body over its limit is the only way to say so.
func closeAfterReply(w http.ResponseWriter) {
	_, _ = http.MaxBytesReader(w, endless{}, 0).Read(make([]byte, 1))
}

// endless is a body that is over every limit.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }
