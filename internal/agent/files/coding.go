package files

import (
	"compress/gzip"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// maxSqueezers bounds the downloads compressed at the same time.
const maxSqueezers = 4

// newSqueezers returns maxSqueezers places, each a compressor made when first
// needed.
func newSqueezers() chan *gzip.Writer {
	places := make(chan *gzip.Writer, maxSqueezers)
	for range maxSqueezers {
		places <- nil
	}
	return places
}

// codings are what a client takes a file in, and whether it would like gzip.
type codings struct{ identity, gzip, wantsGzip bool }

// compressor returns what to compress the reply with, nil to send the file as it
// is; release gives it back. Compressing costs more than the unix socket gains,
// so it is done for clients that ask for it: those that refuse the file as it
// is, and those that name gzip and nothing else. Every HTTP library sends lists
// like "gzip, deflate, br" without being asked. Of the latter, those that want a
// range get it of the file, and when many are served some get the file as it is.
func (s *Service) compressor(r *http.Request, info os.FileInfo, accepted codings) (*gzip.Writer, error) {
	switch {
	case !accepted.identity:
		select {
		case z := <-s.squeezers:
			return made(z), nil
		case <-r.Context().Done():
			return nil, errs.Wrap(r.Context().Err(), errs.Timeout, "the client is gone")
		}
	case accepted.wantsGzip && r.Header.Get("Range") == "" && info.Size() > 0:
		select {
		case z := <-s.squeezers:
			return made(z), nil
		default:
		}
	}
	return nil, nil //nolint:nilnil // no compressor is an answer
}

func made(z *gzip.Writer) *gzip.Writer {
	if z != nil {
		return z
	}
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return z
}

func (s *Service) release(z *gzip.Writer) { s.squeezers <- z }

// negotiate reads the Accept-Encoding headers of a request.
func negotiate(values []string) codings {
	identity, zipped, rest := -1.0, -1.0, -1.0 // -1: not mentioned
	others := false
	for item := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name, parameters, _ := strings.Cut(item, ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "":
		case "identity":
			identity = quality(parameters)
		case "gzip", "x-gzip":
			zipped = quality(parameters)
		case "*":
			rest = quality(parameters)
		default:
			others = true
		}
	}
	return codings{
		identity: identity > 0 || identity < 0 && rest != 0,
		gzip:     zipped > 0 || zipped < 0 && rest > 0,
		// Named alone: neither another coding nor a better one beside it.
		wantsGzip: zipped > 0 && !others && rest < 0 && identity < zipped,
	}
}

// quality reads the q parameter, 1 if there is none to be understood.
func quality(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && q >= 0 && q <= 1 {
			return q
		}
	}
	return 1
}
