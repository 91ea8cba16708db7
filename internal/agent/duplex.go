package agent

import (
	"io"
	"net/http"
	"time"
)

// duplex lets h answer a client that keeps its stream open. What h has not read
// by then nobody needs, and where the next request would begin is not known: the
// connection ends with the reply.
func duplex(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctl := http.NewResponseController(w)
		_ = ctl.EnableFullDuplex() // HTTP/1.1, the only protocol here, can
		w.Header().Set("Connection", "close")
		held := r.WithContext(r.Context())
		held.Body = io.NopCloser(r.Body) // closing it would wait for what may never come
		h.ServeHTTP(w, held)
		_ = ctl.SetReadDeadline(time.Unix(0, 0)) // net/http closes it after the reply
	})
}
