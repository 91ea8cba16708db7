package process

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// feed writes p to the ring as if it came from a process, as far as there is
// room.
func feed(t testing.TB, o *output, p []byte, from stream) int {
	t.Helper()
	total := 0
	for len(p) > 0 {
		o.mu.Lock()
		n := copy(o.room(), p)
		if n > 0 {
			o.commit(n, from)
		}
		o.mu.Unlock()
		if n == 0 {
			break
		}
		p = p[n:]
		total += n
	}
	return total
}

func mustSubscribe(t testing.TB, o *output) *subscriber {
	t.Helper()
	s, err := o.subscribe()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOutputModel compares random use with a ring that forgets nothing.
func TestOutputModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { checkModel(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

type modelSub struct {
	*subscriber
	at int
}

func checkModel(t *testing.T, r *rand.Rand) {
	t.Helper()
	o := newOutput()
	var all []byte
	var origin []stream
	var subs []*modelSub
	sizes := []int{1, 10, 1000, 5000, 70_000}
	for range 600 {
		switch k := r.IntN(10); {
		case k < 4:
			p := make([]byte, 1+r.IntN(sizes[r.IntN(len(sizes))]))
			for i := range p {
				p[i] = byte((len(all) + i) * 7 / 3)
			}
			from := stream(r.IntN(2))
			n := feed(t, o, p, from)
			all = append(all, p[:n]...)
			origin = append(origin, slices.Repeat([]stream{from}, n)...)
			if n < len(p) && len(subs) == 0 {
				t.Fatalf("%d of %d bytes taken without a subscriber", n, len(p))
			}
		case k == 4 && len(subs) < 3:
			subs = append(subs, &modelSub{mustSubscribe(t, o), len(all)})
		case k == 5 && len(subs) > 0 && r.IntN(4) == 0:
			i := r.IntN(len(subs))
			subs[i].detach()
			subs = append(subs[:i], subs[i+1:]...)
		case len(subs) > 0:
			s := subs[r.IntN(len(subs))]
			data, from, _, err := s.take()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data, all[s.at:s.at+len(data)]) || len(data) == 0 && s.at < len(all) {
				t.Fatalf("subscriber at %d of %d took %d bytes that differ", s.at, len(all), len(data))
			}
			for i := range data {
				if origin[s.at+i] != from {
					t.Fatalf("byte %d came from another stream", s.at+i)
				}
			}
			s.at += len(data)
		}
		for _, s := range subs {
			if lag := len(all) - s.at; lag > ringMax {
				t.Fatalf("a subscriber lags %d bytes", lag)
			}
		}
	}
	if len(o.buf) > ringMax || len(o.segments) > segmentsMax {
		t.Errorf("%d bytes and %d segments are kept", len(o.buf), len(o.segments))
	}
}

// TestAlternatingStreams writes single bytes to both streams in turn.
func TestAlternatingStreams(t *testing.T) {
	o := newOutput()
	for i := range 3 * segmentsMax {
		if feed(t, o, []byte{byte(i)}, stream(i%2)) != 1 {
			t.Fatalf("no room for byte %d without a subscriber", i)
		}
	}
	s := mustSubscribe(t, o)
	n := 0
	for feed(t, o, []byte{byte(n)}, stream(n%2)) == 1 {
		n++
	}
	if n < segmentsMax/4 {
		t.Errorf("only %d segments before the subscriber must read", n)
	}
	for i := range n {
		data, from, _, err := s.take()
		if err != nil || len(data) != 1 || data[0] != byte(i) || from != stream(i%2) {
			t.Fatalf("chunk %d: %v of %v, %v", i, data, from, err)
		}
	}
}

// TestSmallRingForSmallOutput keeps idle sandboxes small.
func TestSmallRingForSmallOutput(t *testing.T) {
	o := newOutput()
	feed(t, o, []byte("hello\n"), stdout)
	if len(o.buf) != ringMin {
		t.Errorf("%d bytes are allocated for 6", len(o.buf))
	}
	o.close()
	if o.buf != nil {
		t.Error("the ring of an ended process is kept")
	}
}

func TestEndAfterOutput(t *testing.T) {
	o := newOutput()
	s := mustSubscribe(t, o)
	feed(t, o, []byte("last"), stdout)
	o.close()
	if data, _, ended, err := s.take(); string(data) != "last" || ended || err != nil {
		t.Errorf("%q, %v, %v", data, ended, err)
	}
	if data, _, ended, err := s.take(); len(data) > 0 || !ended || err != nil {
		t.Errorf("%q, %v, %v", data, ended, err)
	}
}

func TestSubscriberLimit(t *testing.T) {
	o := newOutput()
	for range subscribersMax {
		mustSubscribe(t, o)
	}
	if _, err := o.subscribe(); err == nil {
		t.Error("no limit of subscribers")
	}
}

// TestStalledSubscriberIsDropped has a process that waits for a subscriber which
// takes nothing, and one that takes what there is.
func TestStalledSubscriberIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutput()
		time.Sleep(time.Hour) // long silence counts against nobody
		stuck, good := mustSubscribe(t, o), mustSubscribe(t, o)
		time.Sleep(time.Hour)
		if n := feed(t, o, make([]byte, 2*ringMax), stdout); n != ringMax {
			t.Fatalf("%d bytes fit", n)
		}
		began := time.Now()
		written := make(chan time.Duration)
		go func() {
			for feed(t, o, []byte("x"), stdout) == 0 {
				o.waitSpace()
			}
			written <- time.Since(began)
		}()
		time.Sleep(stallLimit / 2)
		for {
			data, _, _, err := good.take()
			if err != nil {
				t.Fatal(err)
			}
			if len(data) == 0 {
				break
			}
		}
		if waited := <-written; waited < stallLimit || waited > 2*stallLimit {
			t.Errorf("the process waited %s", waited)
		}
		if _, _, _, err := stuck.take(); !errors.Is(err, errLost) {
			t.Errorf("the stalled subscriber got %v", err)
		}
		if data, _, _, err := good.take(); string(data) != "x" || err != nil {
			t.Errorf("the other subscriber got %q, %v", data, err)
		}
	})
}

// TestFill reads from a real pipe.
func TestFill(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd := int(r.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	o := newOutput()
	if _, err := o.fill(fd, stdout); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("an empty pipe: %v", err)
	}
	_, _ = w.WriteString("abc")
	if n, err := o.fill(fd, stdout); n != 3 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	s := mustSubscribe(t, o)
	feed(t, o, make([]byte, ringMax), stdout)
	if _, err := o.fill(fd, stdout); !errors.Is(err, errFull) {
		t.Errorf("a full ring: %v", err)
	}
	s.detach()
	o.close()
	_, _ = w.WriteString("discarded")
	if n, err := o.fill(fd, stdout); n != 9 || err != nil || o.end != 3+ringMax {
		t.Errorf("after the end: read %d, %v", n, err)
	}
	_ = w.Close()
	if n, err := o.fill(fd, stdout); n != 0 || err != nil {
		t.Errorf("end of file: read %d, %v", n, err)
	}
}
