package api

import (
	"net/http"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

func (s *server) listTemplates(w http.ResponseWriter, r *http.Request) error {
	if q := parseQuery(r, "teamID"); q.err != nil {
		return q.err
	}
	all, err := s.control.Templates(r.Context())
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, toList(all, s.toTemplate))
}

func (s *server) templateByAlias(w http.ResponseWriter, r *http.Request) error {
	t, err := s.control.Template(r.Context(), r.PathValue("alias"))
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, rest.TemplateAlias{TemplateID: t.ID, Public: t.Public})
}

func (s *server) updateTemplate(w http.ResponseWriter, r *http.Request) error {
	var body rest.TemplateUpdate
	if err := decode(w, r, &body, false); err != nil {
		return err
	}
	if body.Public != nil {
		return errs.New(errs.Unsupported, "publishing templates is not part of this server yet")
	}
	l := sandbox.Limits{CPUs: orZero(body.CPUCount)}
	var err error
	if l.MemoryBytes, err = inBytes("memoryMB", body.MemoryMB); err != nil {
		return err
	}
	if l.DiskBytes, err = inBytes("diskSizeMB", body.DiskSizeMB); err != nil {
		return err
	}
	t, err := s.control.SetTemplateLimits(r.Context(), r.PathValue("templateID"), l)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, s.toTemplate(t))
}

// maxMiB bounds sizes, in MiB: a pebibyte, beyond what any host has and far
// from what overflows.
const maxMiB = 1 << 30

// inBytes returns a size in bytes, 0 if absent.
func inBytes(field string, n *int) (int64, error) {
	if n == nil {
		return 0, nil
	}
	if *n < 1 || *n > maxMiB {
		return 0, errs.New(errs.Invalid, "%s is %d; give a number of MiB from 1 to %d", field, *n, maxMiB)
	}
	return int64(*n) << 20, nil
}

func orZero[T ~int | ~int32 | ~int64](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

func (s *server) listKeys(w http.ResponseWriter, _ *http.Request) error {
	return s.writeJSON(w, http.StatusOK, toList(s.control.Keys(), toKey))
}

func (s *server) createKey(w http.ResponseWriter, r *http.Request) error {
	var body rest.NewAPIKey
	if err := decode(w, r, &body, false); err != nil {
		return err
	}
	k, text, err := s.control.CreateKey(r.Context(), body.Name)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusCreated, rest.CreatedAPIKey{
		ID: k.ID, Name: k.Name, Key: text, Mask: toMask(k), CreatedAt: k.CreatedAt,
	})
}

func (s *server) revokeKey(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, s.control.RevokeKey(r.Context(), r.PathValue("apiKeyID")))
}
