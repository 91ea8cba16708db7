package files

import "sync"

const (
	// largeBuffer is for a transfer when few run, smallBuffer when many do, in bytes.
	largeBuffer, smallBuffer = 256 << 10, 32 << 10
	// maxLarge bounds the large buffers, and so what transfers cost together.
	maxLarge = 8
)

// buffers lends copying buffers. It is safe for concurrent use.
type buffers struct {
	mu    sync.Mutex
	large int // lent out
	pool  sync.Pool
}

// take returns a buffer; give it back.
func (b *buffers) take() []byte {
	b.mu.Lock()
	room := b.large < maxLarge
	if room {
		b.large++
	}
	b.mu.Unlock()
	if !room {
		return make([]byte, smallBuffer)
	}
	if p, ok := b.pool.Get().(*[largeBuffer]byte); ok {
		return p[:]
	}
	return make([]byte, largeBuffer)
}

// give takes a buffer back.
func (b *buffers) give(buf []byte) {
	if len(buf) != largeBuffer {
		return
	}
	b.pool.Put((*[largeBuffer]byte)(buf))
	b.mu.Lock()
	b.large--
	b.mu.Unlock()
}
