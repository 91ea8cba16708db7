package edge

import (
	"io"
	"net/http"
)

// apart answers a file URL that names no sandbox: a browser takes the answer,
// which the sandbox wrote, for the server's own. It may be shown, but is to run
// nothing there, and to set nothing for the server's name.
type apart struct{ http.ResponseWriter }

// WriteHeader begins the answer.
func (w apart) WriteHeader(status int) {
	h := w.Header()
	for _, name := range []string{"Set-Cookie", "Strict-Transport-Security", "Service-Worker-Allowed", "Clear-Site-Data", "Alt-Svc", "Refresh", "Link"} {
		h.Del(name)
	}
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'")
	h.Set("X-Content-Type-Options", "nosniff")
	w.ResponseWriter.WriteHeader(status)
}

// ReadFrom lets the kernel copy where it can.
func (w apart) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(w.ResponseWriter, src)
}

// Flush sends what there is.
func (w apart) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (w apart) Unwrap() http.ResponseWriter { return w.ResponseWriter }
