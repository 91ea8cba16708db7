package agentclient

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
)

// sendBody copies the client's body. A body that breaks off must not look whole
// to the agent: the connection breaks off, too.
func (x *exchange) sendBody(length int64) {
	defer close(x.sending)
	x.link.widen()
	if length > 0 {
		x.sent = x.sendPlain()
	} else {
		x.sent = x.sendChunks()
	}
	if errors.Is(x.sent, errClientBody) {
		x.link.close()
	}
}

// errClientBody says that the client's body did not come whole.
var errClientBody = errors.New("read the client's body")

func (x *exchange) sendPlain() error {
	bulk := x.f.bulks.Get().(*[bulkBytes]byte)
	defer x.f.bulks.Put(bulk)
	for {
		n, err := x.r.Body.Read(bulk[:])
		if n > 0 {
			if err := x.link.write(bulk[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return errors.Join(errClientBody, err)
		}
	}
}

// sendChunks sends what comes as it comes. While the agent is busy with a chunk
// the next one grows: large files then cost few system calls, here and there.
func (x *exchange) sendChunks() error {
	ctx, cancel := context.WithCancel(context.Background())
	pieces := make(chan *piece, piecesAhead)
	go x.readPieces(ctx, pieces)
	var err error
	for p := range pieces {
		if err == nil {
			err = x.sendChunk(p, pieces)
		} else {
			x.f.giveBack(p)
		}
		if err != nil {
			cancel() // the reader ends with the piece it waits for
		}
	}
	cancel()
	if err == nil {
		err = x.link.write([]byte("0\r\n\r\n"))
	}
	return err
}

// piece is a part of a client's body.
type piece struct {
	buf *[pieceBytes]byte
	n   int
	// err is why it is the last, nil if it is not.
	err error
}

func (f *Forwarder) giveBack(p *piece) { f.pieces.Put(p.buf) }

// readPieces reads the client's body until its end or that of ctx, and closes out.
func (x *exchange) readPieces(ctx context.Context, out chan<- *piece) {
	defer close(out)
	for ctx.Err() == nil {
		p := &piece{buf: x.f.pieces.Get().(*[pieceBytes]byte)}
		p.n, p.err = x.r.Body.Read(p.buf[:])
		out <- p
		if p.err != nil {
			return
		}
	}
}

// sendChunk makes one chunk of a piece and what else has come.
func (x *exchange) sendChunk(p *piece, more <-chan *piece) error {
	var size [16]byte
	total := 0
	chunk := net.Buffers{nil}
	for {
		defer x.f.giveBack(p)
		total += p.n
		chunk = append(chunk, p.buf[:p.n])
		if p.err != nil || len(chunk) > piecesAhead {
			break
		}
		next := take(more)
		if next == nil {
			break
		}
		p = next
	}
	if total > 0 {
		chunk[0] = append(strconv.AppendInt(size[:0], int64(total), 16), "\r\n"...)
		chunk = append(chunk, []byte("\r\n"))
		if _, err := chunk.WriteTo(x.link.conn); err != nil {
			return err
		}
	}
	if p.err != nil && !errors.Is(p.err, io.EOF) {
		return errors.Join(errClientBody, p.err)
	}
	return nil
}

// take returns a piece that is there already, nil if none is.
func take(pieces <-chan *piece) *piece {
	select {
	case p := <-pieces:
		return p
	default:
		return nil
	}
}
