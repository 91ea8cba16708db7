package rest

// The types are those of spec/openapi.yaml; internal/api answers with them. To
// change one, change the specification and run make generate.

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config ../../tools/oapi-codegen.yaml -o models.gen.go ../../spec/openapi.yaml
