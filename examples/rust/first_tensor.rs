// first_tensor MODEL.mtq: how many tensors there are, and the first's size and first float32 values.
// rustc -L native=FOLDER_OF_LIBMETAQ first_tensor.rs, or in a build.rs: println!("cargo:rustc-link-lib=metaq").
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr;

// The first members of metaq_tensor: the library fills no more than `struct_size` says that there is.
#[repr(C)]
struct Tensor {
    struct_size: usize,
    name: *const c_char,
    name_size: usize,
    dtype: c_int,
    element_bytes: u32,
    dimensions: usize,
    shape: *const u64,
    size: u64,
    size_bytes: u64,
}

#[link(name = "metaq")]
extern "C" {
    fn metaq_open_memory(
        data: *const c_void, size: usize, options: *const c_void, file: *mut *mut c_void, error: *mut c_void,
    ) -> c_int;
    fn metaq_close(file: *mut c_void);
    fn metaq_status_text(status: c_int) -> *const c_char;
    fn metaq_tensor_count(file: *const c_void) -> usize;
    fn metaq_get_tensor(file: *const c_void, index: usize, tensor: *mut Tensor) -> c_int;
    fn metaq_decode(file: *const c_void, index: usize, out: *mut c_void, size: usize, error: *mut c_void) -> c_int;
}

// Borrows the bytes, so that they outlive it.
struct File<'a>(*mut c_void, std::marker::PhantomData<&'a [u8]>);

// Any thread may use a file, and several at once.
unsafe impl Send for File<'_> {}
unsafe impl Sync for File<'_> {}

fn check(status: c_int) -> Result<(), String> {
    if status == 0 {
        return Ok(());
    }
    Err(unsafe { CStr::from_ptr(metaq_status_text(status)) }.to_string_lossy().into_owned())
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut file = ptr::null_mut();
        check(unsafe {
            metaq_open_memory(bytes.as_ptr().cast(), bytes.len(), ptr::null(), &mut file, ptr::null_mut())
        })?;
        Ok(File(file, std::marker::PhantomData))
    }

    fn decode(&self, index: usize) -> Result<Vec<u8>, String> {
        let mut tensor: Tensor = unsafe { std::mem::zeroed() };
        tensor.struct_size = std::mem::size_of::<Tensor>();
        check(unsafe { metaq_get_tensor(self.0, index, &mut tensor) })?;
        let mut out = vec![0u8; tensor.size_bytes as usize];
        check(unsafe { metaq_decode(self.0, index, out.as_mut_ptr().cast(), out.len(), ptr::null_mut()) })?;
        Ok(out)
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        unsafe { metaq_close(self.0) }
    }
}

fn main() -> Result<(), String> {
    let path = std::env::args().nth(1).ok_or("usage: first_tensor MODEL.mtq")?;
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = File::open(&bytes)?;
    let out = file.decode(0)?;
    let values = out.chunks_exact(4).take(3).map(|word| f32::from_le_bytes(word.try_into().unwrap()));
    println!("{} tensors, {} bytes in the first: {:?}", unsafe { metaq_tensor_count(file.0) }, out.len(),
             values.collect::<Vec<_>>());
    Ok(())
}
