// Command fakeworker is what the supervisor's tests supervise. It adds its start line to ./starts, what it is to ./self, and
// does the next line of ./script:
//
//	exit N    ends with that status
//	say TEXT  writes TEXT and goes on
//	log TEXT  writes TEXT to standard error and goes on
//	flood     says sync, running, nonsense and lines without end, for ever
//	stay      waits for the end of its standard input, or for SIGTERM
//	ignore    waits, and ignores SIGTERM
//
// A line that has been done is taken off; without one it stays.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		os.Exit(99)
	}
	write("self", self())
	add("starts", line)
	for {
		verb, rest, _ := strings.Cut(nextLine(), " ")
		switch verb {
		case "exit":
			status, _ := strconv.Atoi(rest)
			os.Exit(status)
		case "say":
			fmt.Println(rest)
		case "log":
			fmt.Fprintln(os.Stderr, rest)
		case "flood":
			flood()
		case "ignore":
			signal.Ignore(syscall.SIGTERM)
			write("ignoring", "")
			time.Sleep(time.Hour)
		default:
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}
	}
}

// nextLine takes the first line off ./script.
func nextLine() string {
	text, _ := os.ReadFile("script")
	line, rest, _ := strings.Cut(string(text), "\n")
	write("script", rest)
	return line
}

func flood() {
	for {
		fmt.Println("running")
		fmt.Println("sync")
		fmt.Println("rm -rf /")
		fmt.Println(strings.Repeat("x", 1<<20))
		fmt.Println()
		fmt.Fprintln(os.Stderr, strings.Repeat("y", 1<<16))
	}
}

// self is what the kernel says of this process: status, limits, arguments, environment and descriptors.
func self() string {
	var b strings.Builder
	for _, name := range []string{"status", "limits", "cmdline"} {
		text, _ := os.ReadFile("/proc/self/" + name)
		b.Write(text)
		b.WriteByte('\n')
	}
	fmt.Fprintln(&b, "environment", os.Environ())
	for fd := range 16 {
		if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
			fmt.Fprintln(&b, "descriptor", fd, target)
		}
	}
	return b.String()
}

func write(name, text string) {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		os.Exit(98)
	}
}

func add(name, text string) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		os.Exit(98)
	}
	defer f.Close()
	f.WriteString(text)
}
