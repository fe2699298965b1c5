// first_tensor MODEL.mtq: how many tensors there are, and the first's size and first float32 values.
// PKG_CONFIG_PATH=/where/metaq/is/installed/lib/pkgconfig go build -o first_tensor main.go
package main

// #cgo pkg-config: metaq
// #include <stdlib.h>
// #include <metaq/metaq.h>
//
// /* Go has no macros of C. */
// static metaq_tensor blank_tensor(void) { metaq_tensor tensor = METAQ_TENSOR_INIT; return tensor; }
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"
)

// File is one that the library has opened. Any goroutine may use it, and several at once.
type File struct {
	handle *C.metaq_file
	bytes  unsafe.Pointer // a copy that C may hold on to, which no memory of Go's may be
}

func check(status C.metaq_status) error {
	if status == C.METAQ_OK {
		return nil
	}
	return errors.New(C.GoString(C.metaq_status_text(status)))
}

func Open(data []byte) (*File, error) {
	file := &File{bytes: C.CBytes(data)}
	if err := check(C.metaq_open_memory(file.bytes, C.size_t(len(data)), nil, &file.handle, nil)); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (file *File) Close() {
	C.metaq_close(file.handle)
	C.free(file.bytes)
}

func (file *File) Decode(index int) ([]byte, error) {
	tensor := C.blank_tensor()
	if err := check(C.metaq_get_tensor(file.handle, C.size_t(index), &tensor)); err != nil {
		return nil, err
	}
	out := make([]byte, int(tensor.size_bytes)+1) // never empty, so that it has an address
	size := C.size_t(tensor.size_bytes)
	err := check(C.metaq_decode(file.handle, C.size_t(index), unsafe.Pointer(&out[0]), size, nil))
	return out[:size], err
}

func run(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := Open(data)
	if err != nil {
		return err
	}
	defer file.Close()
	out, err := file.Decode(0)
	if err != nil {
		return err
	}
	fmt.Printf("%d tensors, %d bytes in the first:", C.metaq_tensor_count(file.handle), len(out))
	for i := 0; i+4 <= len(out) && i < 12; i += 4 {
		fmt.Printf(" %g", math.Float32frombits(binary.LittleEndian.Uint32(out[i:])))
	}
	fmt.Println()
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: first_tensor MODEL.mtq")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "first_tensor:", err)
		os.Exit(2)
	}
}
