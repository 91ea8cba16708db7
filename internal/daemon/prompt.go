package daemon

import (
	"io"
	"net/http"
	"time"
)

// prompt bounds how long a client of the API may take to send its request's body
// and to receive the answer, both of which are short: everyone can open a
// connection, key or not. What the server does in between has its own time.
func prompt(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Time{}) // an earlier request's; every connection has deadlines
	if r.Body != nil && r.Body != http.NoBody {
		_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
		r.Body = &promptBody{ReadCloser: r.Body, rc: rc}
	}
	return &promptWriter{ResponseWriter: w, rc: rc}, r
}

// promptBody lifts the deadline at the body's end: from there on a read only
// waits for the client to go away.
type promptBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

// Read reads from the body.
func (b *promptBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// promptWriter starts the clock when the answer begins.
type promptWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// WriteHeader begins the answer.
func (w *promptWriter) WriteHeader(status int) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(answerTimeout))
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *promptWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
