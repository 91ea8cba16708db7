package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// exitInterrupted is what shells report for a program that SIGINT ended.
const exitInterrupted = 130

// exitCodeError ends the program with another program's exit code, without a word.
type exitCodeError int

// Error is never shown.
func (c exitCodeError) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// verdict is what the caller learns of an error.
type verdict struct {
	text, hint string
	code       int
}

// report writes an error for people and returns the exit code.
func (a *app) report(ctx context.Context, cmd *cobra.Command, err error) int {
	if code, ok := errors.AsType[exitCodeError](err); ok {
		return int(code)
	}
	v := a.judge(ctx, cmd, err)
	a.say("error: %s", v.text)
	if v.hint != "" {
		a.say("hint: %s", v.hint)
	}
	return v.code
}

func (a *app) judge(ctx context.Context, cmd *cobra.Command, err error) verdict {
	if !a.started {
		return verdict{oneLine(err.Error()), "see: " + cmd.CommandPath() + " --help", errs.Invalid.ExitCode()}
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return verdict{text: "interrupted", code: exitInterrupted}
	}
	if _, ok := errors.AsType[*client.UnreachableError](err); ok {
		return verdict{err.Error(), "start one with: sandlot serve", errs.Unavailable.ExitCode()}
	}
	if refused, ok := errors.AsType[*client.Error](err); ok {
		return verdict{err.Error(), a.refusalHint(refused), kindOf(refused).ExitCode()}
	}
	v := verdict{text: err.Error(), code: errs.KindOf(err).ExitCode()}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		v.hint = e.Hint
	}
	return v
}

// kindOf classifies what the server refused.
func kindOf(e *client.Error) errs.Kind {
	if e.Code == http.StatusBadGateway { // an edge that finds no sandbox behind it
		return errs.Unavailable
	}
	return errs.FromHTTPStatus(e.Code)
}

func (a *app) refusalHint(e *client.Error) string {
	// The data plane answers 401 too, e.g. to a user the sandbox does not have.
	if e.Code != http.StatusUnauthorized || !strings.Contains(e.Message, "API key") {
		return ""
	}
	dir := a.dataDir
	if dir == "" {
		dir = a.getenv("SANDLOT_DATA_DIR")
	}
	if dir == "" {
		dir = config.Default().DataDir
	}
	return "unset E2B_API_KEY and run as a user who may read " + filepath.Join(dir, "api-key") + ", or set it to a key of that server"
}

// oneLine keeps an error of the command line parser to one lower-case line.
func oneLine(text string) string {
	first, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	first = strings.TrimSuffix(first, ".")
	if first == "" {
		return oneLine(rest)
	}
	return strings.ToLower(first[:1]) + first[1:]
}
