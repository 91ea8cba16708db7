package edge

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

// page is what people see in a browser instead of JSON.
type page struct {
	template *template.Template
	policy   string // Content-Security-Policy
}

// newPage prepares the page. Its parts are of this package, so a mistake in them
// is found by every test.
func newPage() page {
	sum := sha256.Sum256([]byte(pageStyle))
	return page{
		template: template.Must(template.New("page").Parse(pageSource)),
		policy:   "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
	}
}

// heading says in a few words what is the matter.
func heading(b errorBody) string {
	switch b.Code {
	case http.StatusBadGateway:
		return "This sandbox cannot be reached"
	case http.StatusForbidden, http.StatusUnauthorized:
		return "This sandbox is not open to you"
	case http.StatusTooManyRequests:
		return "Too many connections"
	default:
		return http.StatusText(b.Code)
	}
}

// write answers with the page. Its headers let it load nothing and run nothing;
// it may be shown in a frame, as previews of sandboxes are.
func (p page) write(w http.ResponseWriter, b errorBody) {
	var text bytes.Buffer
	err := p.template.Execute(&text, map[string]any{
		"Heading": heading(b), "Message": b.Message, "Hint": b.hint,
		"Sandbox": b.SandboxID, "Port": b.Port, "Code": b.Code, "Style": template.CSS(pageStyle),
	})
	if err != nil { // only a value the template cannot print
		http.Error(w, b.Message, b.Code)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(b.Code)
	_, _ = w.Write(text.Bytes()) // the client has gone: nobody to tell
}
