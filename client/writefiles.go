package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
)

// FileData is one file for WriteFiles.
type FileData struct {
	Path string
	Data []byte
}

// WriteFiles is Write for several files in one request. Each file appears whole
// or not at all; after an error, those before the one it names are there.
func (f *Files) WriteFiles(ctx context.Context, files []FileData, opts ...FileOption) error {
	if len(files) == 0 {
		return nil
	}
	body, contentType, err := form(files)
	if err != nil {
		return fmt.Errorf("encode the files: %w", err)
	}
	target := f.sbx.client.opts.SandboxURL + "/files"
	if user := userOf(opts); user != "" {
		target += "?" + url.Values{"username": {user}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := f.sbx.send(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
	return nil
}

// form makes a multipart body whose file names are whole paths.
func form(files []FileData) (*bytes.Buffer, string, error) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, file := range files {
		part, err := w.CreateFormFile("file", file.Path)
		if err != nil {
			return nil, "", err
		}
		if _, err := part.Write(file.Data); err != nil {
			return nil, "", err
		}
	}
	return &body, w.FormDataContentType(), w.Close()
}
