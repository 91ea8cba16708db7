// Command printenv prints its environment, a variable on each line.
package main

import (
	"fmt"
	"os"
)

func main() {
	for _, v := range os.Environ() {
		_, _ = fmt.Println(v) //nolint:forbidigo // its output is its purpose
	}
}
