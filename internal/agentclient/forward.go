package agentclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// smallBody is what is read of a client before anything is sent: then head and
	// body are one write, and no goroutine is needed.
	smallBody = 16 << 10
	// pieceBytes is the buffer of a body of unknown length, bulkBytes that of a
	// large one.
	pieceBytes, bulkBytes = 32 << 10, 256 << 10
	// piecesAhead bounds what of a body of unknown length waits to be sent.
	piecesAhead = 8
	// bodyGrace is how long the rest of a body is waited for once the agent has
	// answered.
	bodyGrace = 500 * time.Millisecond
	// maxForwardedHeader bounds the header of a reply to a client.
	maxForwardedHeader = 64 << 10
)

// Forwarder passes clients' requests on to agents and the replies back. It does
// in the calling goroutine, and where it can in the kernel, what a proxy over
// http.Transport does with four goroutines and a copy: most requests are short
// commands, whose time that would be, and the rest large files. It forwards
// HTTP/1.1 without upgrades, which agents do not offer.
//
// Forwarder is safe for concurrent use. End it with Close.
type Forwarder struct {
	// dial connects to the agent of a sandbox.
	dial func(ctx context.Context, id string) (net.Conn, error)

	pieces, bulks sync.Pool
	idle          idleLinks
}

// NewForwarder returns a Forwarder that connects with dial.
func NewForwarder(dial func(ctx context.Context, id string) (net.Conn, error)) *Forwarder {
	f := &Forwarder{dial: dial}
	f.pieces.New = func() any { return new([pieceBytes]byte) }
	f.bulks.New = func() any { return new([bulkBytes]byte) }
	f.idle.byID = map[string][]*link{}
	return f
}

// Close closes the connections no request uses and keeps none from now on.
func (f *Forwarder) Close() { f.idle.close() }

// Forward passes r, without the headers in drop (in canonical form), to the
// agent of a sandbox, and answers w. It blocks until both bodies are through. An
// error means that w is untouched but for "Connection: close", and is
// context.Canceled if the client went away or its body ended early; what goes
// wrong later breaks the client's connection (http.ErrAbortHandler). w must be in
// full duplex. The caller still has to end r.Body, and the connection with it if
// the body was not read to its end; a read deadline may be left.
func (f *Forwarder) Forward(w http.ResponseWriter, r *http.Request, id string, drop ...string) error {
	x := &exchange{f: f, w: w, r: r}
	if l := f.idle.take(id); l != nil {
		if err := x.over(l, id, drop); err == nil || !x.repeatable() {
			return err
		}
		// The agent has closed the connection just now, and its watcher missed it.
	}
	l, err := f.connect(r.Context(), id)
	if err != nil {
		return err
	}
	return x.over(l, id, drop)
}

// over is Forward on a given connection.
func (x *exchange) over(l *link, id string, drop []string) error {
	x.link = l
	r := x.r
	// The client's end ends the agent's part, too.
	stop := context.AfterFunc(r.Context(), x.link.close)
	begun, err := x.run(drop)
	if err != nil && r.Context().Err() != nil { // before finishBody interrupts, which cancels, too
		err = errors.Join(err, context.Cause(r.Context()))
	}
	x.finishBody(begun)
	if stop() && err == nil && x.reusable() {
		x.f.idle.put(id, x.link)
	} else {
		x.link.close()
	}
	if begun && err != nil {
		panic(http.ErrAbortHandler)
	}
	return err
}

// exchange is one request and its reply.
type exchange struct {
	f    *Forwarder
	w    http.ResponseWriter
	r    *http.Request
	link *link
	res  *http.Response
	// sending is closed when the goroutine that sends the body has ended, nil if
	// there is none; sent is its outcome.
	sending chan struct{}
	sent    error
	// heard says that the agent has sent something.
	heard bool
}

// repeatable reports whether a request that failed may be sent again: it changes
// nothing, has no body and a client, and the agent has not begun to answer.
func (x *exchange) repeatable() bool {
	safe := x.r.Method == http.MethodGet || x.r.Method == http.MethodHead
	return safe && x.bodyLength() == 0 && !x.heard && x.r.Context().Err() == nil
}

func (x *exchange) bodyLength() int64 {
	if x.r.Body == nil || x.r.Body == http.NoBody {
		return 0
	}
	return x.r.ContentLength
}

// run reports whether the reply to the client has begun.
func (x *exchange) run(drop []string) (begun bool, err error) {
	if err := x.send(drop); err != nil {
		return false, err
	}
	if err := x.receiveHead(); err != nil {
		return false, err
	}
	return true, x.answer()
}

// send sends the head and a small body; a larger one goes on beside the reply.
func (x *exchange) send(drop []string) error {
	piece := x.f.pieces.Get().(*[pieceBytes]byte)
	defer x.f.pieces.Put(piece)
	length := x.bodyLength()
	out := appendHead(piece[:0], x.r, length, drop)
	if length > 0 && length <= smallBody {
		body := len(out)
		out = slices.Grow(out, int(length))[:body+int(length)]
		if _, err := io.ReadFull(x.r.Body, out[body:]); err != nil {
			return fmt.Errorf("read the request: %w", err)
		}
	}
	if err := x.link.write(out); err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	if length < 0 || length > smallBody {
		x.sending = make(chan struct{})
		go x.sendBody(length)
	}
	return nil
}

// finishBody waits for the goroutine that sends the body. If the agent has
// answered without reading it all, nobody needs the rest.
func (x *exchange) finishBody(begun bool) {
	if x.sending == nil {
		return
	}
	select {
	case <-x.sending:
		return
	default:
	}
	x.link.close()
	// A client that sends nothing now is to see the reply's end, or hear of the
	// error, all the same. Where its next request would begin is then unknown.
	deadline := past
	if begun {
		x.flush()
		deadline = time.Now().Add(bodyGrace)
	} else {
		x.w.Header().Set("Connection", "close")
	}
	_ = http.NewResponseController(x.w).SetReadDeadline(deadline)
	<-x.sending
}

// reusable reports whether both sides know where the next message begins.
func (x *exchange) reusable() bool {
	return x.sent == nil && x.res != nil && !x.res.Close && x.link.buffered.Buffered() == 0
}

// receiveHead reads the reply's header.
func (x *exchange) receiveHead() (err error) {
	if err := x.link.awake(); err != nil {
		return err
	}
	x.link.bound.N = maxForwardedHeader
	for {
		x.res, err = http.ReadResponse(x.link.buffered, x.r) //nolint:bodyclose // it is read to its end, or the connection closed
		x.heard = x.heard || x.link.bound.N < maxForwardedHeader
		if err != nil {
			return fmt.Errorf("read the reply: %w", err)
		}
		switch {
		case x.res.StatusCode == http.StatusSwitchingProtocols:
			return errors.New("the agent switches protocols")
		case x.res.StatusCode >= 200:
			x.link.bound.N = math.MaxInt64
			return nil
		}
	}
}

// answer passes the reply on.
func (x *exchange) answer() error {
	h := x.w.Header()
	for name, values := range x.res.Header {
		if !hopByHop(name, x.res.Header) {
			h[name] = values
		}
	}
	x.w.WriteHeader(x.res.StatusCode)
	if x.res.ContentLength < 0 {
		return x.answerPieces()
	}
	return x.answerPlain()
}

// answerPieces passes on what comes as it comes.
func (x *exchange) answerPieces() error {
	piece := x.f.pieces.Get().(*[pieceBytes]byte)
	defer x.f.pieces.Put(piece)
	for {
		n, err := x.res.Body.Read(piece[:])
		if n > 0 {
			if _, err := x.w.Write(piece[:n]); err != nil {
				return err
			}
			if err == nil { // else the end flushes
				x.flush()
			}
		}
		if err == io.EOF {
			for name, values := range x.res.Trailer {
				x.w.Header()[http.TrailerPrefix+name] = values
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the reply: %w", err)
		}
	}
}

func (x *exchange) flush() {
	if f, ok := x.w.(http.Flusher); ok {
		f.Flush()
	}
}

// answerPlain passes a body of known length on: what the header's reads have
// brought, then the rest from the socket itself, which net/http hands to the
// kernel (splice) when the client's connection is TCP.
func (x *exchange) answerPlain() error {
	left := x.res.ContentLength
	if left == 0 || x.r.Method == http.MethodHead || x.res.StatusCode == http.StatusNotModified {
		return nil
	}
	if n := min(left, int64(x.link.buffered.Buffered())); n > 0 {
		if _, err := io.CopyN(x.w, x.link.buffered, n); err != nil {
			return err
		}
		left -= n
	}
	rest := &io.LimitedReader{R: x.link.conn, N: left}
	var err error
	if direct, ok := x.w.(io.ReaderFrom); ok && left > 0 {
		_, err = direct.ReadFrom(rest)
	} else if left > 0 {
		bulk := x.f.bulks.Get().(*[bulkBytes]byte)
		defer x.f.bulks.Put(bulk)
		_, err = io.CopyBuffer(x.w, rest, bulk[:])
	}
	if err == nil && rest.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
