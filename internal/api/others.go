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
	l := sandbox.Limits{CPUs: orZero(body.CPUCount), MemoryBytes: int64(orZero(body.MemoryMB)) << 20, DiskBytes: int64(orZero(body.DiskSizeMB)) << 20}
	t, err := s.control.SetTemplateLimits(r.Context(), r.PathValue("templateID"), l)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, s.toTemplate(t))
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
