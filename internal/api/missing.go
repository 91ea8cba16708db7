package api

import (
	"net/http"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// missingRoutes is what E2B has and this version has not. Each says so by name:
// a plain 404 means to clients that the thing they asked about does not exist.
// Where E2B takes other credentials than an API key, anyone is told.
var missingRoutes = []route{
	{http.MethodPost, "/sandboxes/{sandboxID}/pause", needsKey, missing("pausing sandboxes")},
	{http.MethodPost, "/sandboxes/{sandboxID}/resume", needsKey, missing("pausing and resuming sandboxes")},
	{http.MethodPost, "/sandboxes/{sandboxID}/fork", needsKey, missing("forking sandboxes")},
	{http.MethodPost, "/sandboxes/{sandboxID}/snapshots", needsKey, missing("snapshots")},
	{http.MethodGet, "/snapshots", needsKey, missing("snapshots")},
	{http.MethodPut, "/sandboxes/{sandboxID}/network", needsKey, missing("changing a sandbox's network policy")},
	{http.MethodGet, "/sandboxes/{sandboxID}/logs", needsKey, missing("logs of sandboxes")},
	{http.MethodGet, "/v2/sandboxes/{sandboxID}/logs", needsKey, missing("logs of sandboxes")},

	{http.MethodPost, "/templates", needsKey, missing("building templates through the API")},
	{http.MethodPost, "/v2/templates", needsKey, missing("building templates through the API")},
	{http.MethodPost, "/v3/templates", needsKey, missing("building templates through the API")},
	{http.MethodPost, "/templates/{templateID}", needsKey, missing("building templates through the API")},
	{http.MethodGet, "/templates/{templateID}/files/{hash}", needsKey, missing("building templates through the API")},
	{http.MethodPost, "/templates/{templateID}/builds/{buildID}", needsKey, missing("building templates through the API")},
	{http.MethodPost, "/v2/templates/{templateID}/builds/{buildID}", needsKey, missing("building templates through the API")},
	{http.MethodGet, "/templates/{templateID}/builds/{buildID}/status", needsKey, missing("building templates through the API")},
	{http.MethodGet, "/templates/{templateID}/builds/{buildID}/logs", needsKey, missing("building templates through the API")},
	{http.MethodGet, "/v2/templates", needsKey, missing("listing templates by page")},
	{http.MethodGet, "/templates/{templateID}", needsKey, missing("listing the builds of a template")},
	{http.MethodPatch, "/templates/{templateID}", needsKey, missing("publishing templates")},
	{http.MethodDelete, "/templates/{templateID}", needsKey, missing("deleting templates and snapshots through the API")},
	{http.MethodPost, "/templates/tags", needsKey, missing("tags of templates")},
	{http.MethodDelete, "/templates/tags", needsKey, missing("tags of templates")},
	// The pattern /templates/{templateID}/tags cannot stand beside
	// /templates/aliases/{alias}: neither is the more specific.
	{http.MethodGet, "/templates/{templateID}/{part}", needsKey, missingPart("tags", "tags of templates")},

	{http.MethodGet, "/volumes", needsKey, missing("volumes")},
	{http.MethodPost, "/volumes", needsKey, missing("volumes")},
	{http.MethodGet, "/volumes/{volumeID}", needsKey, missing("volumes")},
	{http.MethodDelete, "/volumes/{volumeID}", needsKey, missing("volumes")},
	{http.MethodGet, "/volumecontent/{volumeID}/path", public, missing("volumes")},
	{http.MethodPatch, "/volumecontent/{volumeID}/path", public, missing("volumes")},
	{http.MethodDelete, "/volumecontent/{volumeID}/path", public, missing("volumes")},
	{http.MethodGet, "/volumecontent/{volumeID}/dir", public, missing("volumes")},
	{http.MethodPost, "/volumecontent/{volumeID}/dir", public, missing("volumes")},
	{http.MethodGet, "/volumecontent/{volumeID}/file", public, missing("volumes")},
	{http.MethodPut, "/volumecontent/{volumeID}/file", public, missing("volumes")},

	{http.MethodGet, "/secrets", needsKey, missing("secrets")},
	{http.MethodPost, "/secrets", needsKey, missing("secrets")},
	{http.MethodGet, "/secrets/{secret}", needsKey, missing("secrets")},
	{http.MethodPost, "/secrets/{secret}", needsKey, missing("secrets")},
	{http.MethodDelete, "/secrets/{secret}", needsKey, missing("secrets")},

	{http.MethodPatch, "/api-keys/{apiKeyID}", needsKey, missing("renaming API keys")},
	{http.MethodPost, "/access-tokens", public, missing("access tokens of users")},
	{http.MethodDelete, "/access-tokens/{accessTokenID}", public, missing("access tokens of users")},
	{http.MethodGet, "/teams", public, missing("teams")},
	{http.MethodGet, "/teams/{teamID}/metrics", public, missing("metrics of teams")},
	{http.MethodGet, "/teams/{teamID}/metrics/max", public, missing("metrics of teams")},
	{http.MethodGet, "/nodes", public, missing("nodes")},
	{http.MethodGet, "/nodes/{nodeID}", public, missing("nodes")},
	{http.MethodPost, "/nodes/{nodeID}", public, missing("nodes")},
	{http.MethodPost, "/admin/teams/{teamID}/sandboxes/kill", public, missing("administration by team")},
	{http.MethodPost, "/admin/teams/{teamID}/builds/cancel", public, missing("administration by team")},
	{http.MethodPost, "/admin/teams/{teamID}/api-keys", public, missing("administration by team")},
	{http.MethodGet, "/admin/sandboxes/running-counts", public, missing("administration by team")},
}

// missing refuses a feature by name.
func missing(feature string) handler {
	return func(*server, http.ResponseWriter, *http.Request) error { return errUnsupported(feature) }
}

// missingPart does so for one value of {part} only.
func missingPart(part, feature string) handler {
	return func(_ *server, _ http.ResponseWriter, r *http.Request) error {
		if r.PathValue("part") != part {
			return errNoRoute(r)
		}
		return errUnsupported(feature)
	}
}

func errUnsupported(feature string) error {
	return errs.New(errs.Unsupported, "%s: not available in this version of Sandlot", feature)
}

func errNoRoute(r *http.Request) error {
	return errs.New(errs.NotFound, "%s %s is not part of this API", r.Method, r.URL.Path)
}
