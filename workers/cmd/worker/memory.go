package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

const (
	memoryPeriod   = 7 * time.Second
	quietPackets   = 200       // per second; below it a collection disturbs no traffic
	grownByAtLeast = 256 << 10 // bytes; less is not worth a collection

	// Head room of the collector (GOGC). While there is little traffic, garbage is news from the control plane, and an early collection costs
	// milliseconds a minute. Never a memory limit: it would count buffers that nobody touches, and collect all the time.
	quietGC = 20
	busyGC  = 50
)

// giveBackMemory returns to the host what a burst of traffic, or of news from the control plane, took. When there is little traffic and
// the process has grown since the last time, or has let go of what only traffic needs, it collects.
//
// The size is the kernel's: Go's own metrics miss part of the growth.
func giveBackMemory(d *device) {
	low := residentBytes()
	before := d.packets.Load()
	retired, busy := false, false
	for range time.Tick(memoryPeriod) {
		now := d.packets.Load()
		wasBusy := busy
		busy = now-before >= quietPackets*uint64(memoryPeriod/time.Second)
		before = now
		retired = d.retire() || retired
		if busy {
			if !wasBusy {
				debug.SetGCPercent(busyGC)
			}
			continue
		}
		if wasBusy {
			debug.SetGCPercent(quietGC)
		}
		size := residentBytes()
		if size < low+grownByAtLeast && !retired {
			low = min(low, size)
			continue
		}
		runtime.GC() // what lies in a sync.Pool outlives one collection; FreeOSMemory is the second
		debug.FreeOSMemory()
		low = residentBytes()
		retired = false
	}
}

// residentBytes is the second field of /proc/self/statm, in bytes; 0 if it cannot be read.
func residentBytes() int {
	text, err := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(text)
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(string(fields[1]))
	return pages * os.Getpagesize()
}
