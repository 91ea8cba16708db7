package agentclient

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// appendHead appends a request's head. The path is the one the caller has looked
// at, whatever form it had.
func appendHead(out []byte, r *http.Request, length int64, drop []string) []byte {
	target := url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	out = append(append(out, r.Method...), ' ')
	out = append(append(out, target.RequestURI()...), " HTTP/1.1\r\nHost: "...)
	out = append(append(out, r.Host...), "\r\n"...)
	for name, values := range r.Header {
		// An HTTP/2 request may carry a length that is not its body's. Taken over,
		// the agent would read what is missing from the next request.
		if name == "Content-Length" || name == "Host" || hopByHop(name, r.Header) || slices.Contains(drop, name) {
			continue
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n") {
				continue // net/http lets none in
			}
			out = append(append(out, name...), ": "...)
			out = append(append(out, v...), "\r\n"...)
		}
	}
	switch {
	case length > 0 || length == 0 && r.Method != http.MethodGet && r.Method != http.MethodHead:
		out = append(strconv.AppendInt(append(out, "Content-Length: "...), length, 10), "\r\n"...)
	case length < 0:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(out, "\r\n"...)
}

// hopByHop reports whether a header is about the connection it came over (RFC
// 9110, 7.6.1). Expect is answered by this server, the length is written anew.
func hopByHop(name string, h http.Header) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Expect":
		return true
	}
	for _, list := range h["Connection"] {
		for named := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(named), name) {
				return true
			}
		}
	}
	return false
}
