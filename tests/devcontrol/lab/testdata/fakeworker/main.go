// Command fakeworker replaces the worker in the supervisor's tests. It appends its start line to ./starts, writes its own state to ./self,
// and executes the lines of ./script one after the other:
//
//	exit N    ends with that status
//	say TEXT  writes TEXT and continues
//	log TEXT  writes TEXT to standard error and continues
//	open NET  creates a socket of that network (udp4, udp6, tcp4, unixgram), whose buffer sizes are in ./buffers from then on
//	flood     writes sync, running, nonsense and lines without end, forever
//	stay      waits for the end of its standard input, or for SIGTERM
//	ignore    waits, and ignores SIGTERM
//
// A line is removed before it is executed. Without a line, it stays.
package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
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
		case "open":
			open(rest)
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

// nextLine removes the first line from ./script and returns it.
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

var sockets struct {
	sync.Mutex
	lines []func() string
}

// open creates a socket, and keeps ./buffers up to date: a line per socket with its network and the sizes for receiving and sending.
func open(network string) {
	var c syscall.Conn
	var err error
	switch network {
	case "tcp4":
		c, err = net.ListenTCP(network, nil)
	case "unixgram":
		c, err = net.ListenUnixgram(network, &net.UnixAddr{Name: "@" + rand.Text(), Net: network})
	default:
		c, err = net.ListenUDP(network, nil)
	}
	if err != nil {
		os.Exit(97)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		os.Exit(97)
	}
	sockets.Lock()
	defer sockets.Unlock()
	sockets.lines = append(sockets.lines, func() (line string) {
		raw.Control(func(fd uintptr) {
			receive, _ := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
			send, _ := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
			line = fmt.Sprintln(network, receive, send)
		})
		return line
	})
	if len(sockets.lines) == 1 {
		go report()
	}
}

// report runs forever. Only it uses the sockets.
func report() {
	for range time.Tick(20 * time.Millisecond) {
		sockets.Lock()
		var text string
		for _, line := range sockets.lines {
			text += line()
		}
		sockets.Unlock()
		write("buffers", text)
	}
}

// self returns what the kernel reports about this process: status, limits, arguments, environment, namespace and descriptors.
func self() string {
	var b strings.Builder
	for _, name := range []string{"status", "limits", "cmdline"} {
		text, _ := os.ReadFile("/proc/self/" + name)
		b.Write(text)
		b.WriteByte('\n')
	}
	fmt.Fprintln(&b, "environment", os.Environ())
	netns, _ := os.Readlink("/proc/self/ns/net")
	fmt.Fprintln(&b, "netns", netns)
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
