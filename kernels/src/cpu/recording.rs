//! A step of the CPU, done again on the memory that it was done in before.
//!
//! While a [`Tape`] runs, what an operation makes stands in a slot that the tape keeps, and the operation
//! is remembered with the places it reads and writes. To replay is to do all of that once more: nothing is
//! allocated, and Burn has no part in it. A slot is free again when the last tensor that shows it is gone,
//! so that a recording needs as much memory as the step itself.

use std::{
    cell::{RefCell, UnsafeCell},
    mem::MaybeUninit,
    ptr,
    sync::Arc,
};

use burn::{
    backend::{
        Flex,
        flex::{FlexTensor, Layout},
    },
    tensor::{Bytes, DType, Int, Shape, Tensor},
};
use cubecl_environment::bytes::{
    AccessError, AccessPolicy, AllocationController, AllocationProperty,
};

use crate::{IN_EARNEST, cpu::primitive::Values};

thread_local! {
    /// What is being recorded on this thread.
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Tape {
    slots: Vec<Arc<Slot>>,
    deeds: Vec<Box<dyn Fn()>>,
}

impl Tape {
    /// A slot of this length that no tensor shows.
    fn slot(&mut self, length: usize) -> Arc<Slot> {
        let free = |slot: &&Arc<Slot>| slot.0.len() == length && Arc::strong_count(slot) == 1;
        if let Some(slot) = self.slots.iter().find(free) {
            return slot.clone();
        }
        let slot = Slot::zeroed(length);
        self.slots.push(slot.clone());
        slot
    }

    fn keeps(&self, address: usize) -> bool {
        self.slots.iter().any(|slot| slot.address() == address)
    }
}

/// See [`crate::Recording`].
pub(crate) struct Graph {
    tape: Tape,
    times: usize,
}

impl Graph {
    /// Does the work [`IN_EARNEST`] times, the last time with a tape.
    pub(crate) fn capture(times: usize, mut work: impl FnMut()) -> Self {
        /// Nothing is recorded any more, even where the work has panicked.
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                TAPE.set(None);
            }
        }
        (1..IN_EARNEST).for_each(|_| work());
        TAPE.set(Some(Tape::default()));
        let _end = End;
        work();
        let tape = TAPE.take().unwrap_or_default();
        Self { tape, times }
    }

    /// # Safety
    /// Nobody else may be reading what the work reads and writes.
    pub(crate) unsafe fn replay(&self) {
        for _ in 0..self.times {
            self.tape.deeds.iter().for_each(|deed| deed());
        }
    }
}

fn is_recording() -> bool {
    TAPE.with_borrow(Option::is_some)
}

/// Does this now, and in each replay of what is being recorded.
pub(super) fn perform(deed: impl Fn() + 'static) {
    deed();
    TAPE.with_borrow_mut(|tape| {
        if let Some(tape) = tape {
            tape.deeds.push(Box::new(deed));
        }
    });
}

/// A tensor whose values are whatever `work` writes; they are 0 or left over before. What it reads it takes
/// from the tensors of `prepare` as [`Source`]s: these are alive until there is a place for the result.
pub(super) fn make<const D: usize, Work: Fn(&mut [f32]) + 'static>(
    shape: [usize; D],
    prepare: impl FnOnce() -> Work,
) -> Tensor<D> {
    let length = shape.iter().product();
    let slot = TAPE.with_borrow_mut(|tape| tape.as_mut().map(|tape| tape.slot(length)));
    let Some(slot) = slot else {
        let mut values = vec![0.0; length];
        prepare()(&mut values);
        return tensor(super::primitive::tensor(values, shape));
    };
    let work = prepare();
    let made = tensor(slot.shown(shape, DType::F32));
    let target = Target::<f32>::at(slot.address(), length);
    // SAFETY: the place was free, and what is read stands elsewhere; the tape keeps it.
    perform(move || work(unsafe { target.values() }));
    made
}

/// Zeros in memory that [`Target`]s write.
pub(crate) fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    tensor(Slot::zeroed(shape.iter().product()).shown(shape, DType::F32))
}

/// [`zeros`] of integers.
pub(crate) fn integer_zeros(length: usize) -> Tensor<1, Int> {
    Tensor::from_primitive::<Flex>(Slot::zeroed(length).shown([length], DType::I32))
}

/// Memory that is written while tensors show it. Each cell is the bits of an f32 or an i32.
struct Slot(Box<[UnsafeCell<u32>]>);

// SAFETY: whoever writes has promised that nobody else is reading.
unsafe impl Sync for Slot {}

impl Slot {
    fn zeroed(length: usize) -> Arc<Self> {
        let slot = Arc::new(Self((0..length).map(|_| UnsafeCell::new(0)).collect()));
        // For `Source` and `Target`, which know no more than where a tensor's values stand.
        slot.0.as_ptr().expose_provenance();
        slot
    }

    fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    fn shown<const D: usize>(self: &Arc<Self>, shape: [usize; D], dtype: DType) -> FlexTensor {
        // SAFETY: the slot has so many bytes, all of them zero at least.
        let bytes =
            unsafe { Bytes::from_controller(Box::new(Shown(self.clone())), size_of_val(&*self.0)) };
        FlexTensor::new(bytes, Layout::contiguous(Shape::from(shape)), dtype)
    }
}

/// A slot as the memory of a tensor.
struct Shown(Arc<Slot>);

impl AllocationController for Shown {
    fn alloc_align(&self) -> usize {
        align_of::<u32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let (at, length) = (self.0.0.as_ptr() as *mut _, size_of_val(&*self.0.0));
        // SAFETY: these are the slot's bytes; it is the only tensor to show them, and while it is
        // there, no tape takes the slot for something else.
        Ok(unsafe { std::slice::from_raw_parts_mut(at, length) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let (at, length) = (self.0.0.as_ptr().cast(), size_of_val(&*self.0.0));
        // SAFETY: these are the slot's bytes, and who writes them meanwhile has promised not to.
        Ok(unsafe { std::slice::from_raw_parts(at, length) })
    }
}

/// What an operation reads: the values of a tensor, in the order of its indices.
pub(super) struct Source<T> {
    at: *const T,
    length: usize,
    /// Unless it is the tape that keeps them.
    _tensor: Option<FlexTensor>,
}

// SAFETY: many threads may read the same values.
unsafe impl<T: Sync> Sync for Source<T> {}

impl Source<f32> {
    pub(super) fn floats<const D: usize>(x: Tensor<D>) -> Self {
        let x = primitive(x);
        // The copy of a view would be one of what it shows now.
        assert!(
            x.is_contiguous() || !is_recording(),
            "what is recorded reads whole tensors, and rows of them"
        );
        Self::of(Values::of(x).into_tensor())
    }

    /// No values where there is no tensor.
    pub(super) fn maybe<const D: usize>(x: Option<Tensor<D>>) -> Self {
        x.map_or(
            Self {
                at: ptr::dangling(),
                length: 0,
                _tensor: None,
            },
            Self::floats,
        )
    }
}

impl Source<i32> {
    pub(super) fn integers(x: Tensor<1, Int>) -> Self {
        Self::of(integers(x))
    }
}

impl<T> Source<T> {
    fn of(x: FlexTensor) -> Self {
        let (address, length) = place(&x);
        let kept = TAPE.with_borrow(|tape| tape.as_ref().is_some_and(|tape| tape.keeps(address)));
        Self {
            at: ptr::with_exposed_provenance(address),
            length,
            _tensor: (!kept).then_some(x),
        }
    }

    pub(super) fn values(&self) -> &[T] {
        // SAFETY: the tensor or the tape keeps so many values there. The tape's own are written by other
        // operations than those that read them.
        unsafe { std::slice::from_raw_parts(self.at, self.length) }
    }
}

/// What an operation overwrites: [`zeros`], or some rows of them.
pub(super) struct Target<T> {
    at: *mut T,
    length: usize,
    _tensor: Option<FlexTensor>,
}

impl Target<f32> {
    pub(super) fn floats<const D: usize>(x: &Tensor<D>) -> Self {
        Self::of(primitive(x.clone()))
    }
}

impl Target<i32> {
    pub(super) fn integers(x: &Tensor<1, Int>) -> Self {
        Self::of(integers(x.clone()))
    }
}

impl<T> Target<T> {
    fn of(x: FlexTensor) -> Self {
        assert!(
            x.data_arc().property() == AllocationProperty::Other,
            "only what a recording or a `Resident` made is overwritten"
        );
        let (address, length) = place(&x);
        Self {
            _tensor: Some(x),
            ..Self::at(address, length)
        }
    }

    fn at(address: usize, length: usize) -> Self {
        Self {
            at: ptr::with_exposed_provenance_mut(address),
            length,
            _tensor: None,
        }
    }

    /// # Safety
    /// Nobody else may be using these values.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn values(&self) -> &mut [T] {
        // SAFETY: so many values stand there, in cells that may be written; the rest is promised.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.length) }
    }
}

impl<T: Copy> Target<T> {
    /// # Safety
    /// As for [`Self::values`]; but the source may be the same.
    pub(super) unsafe fn overwrite(&self, source: &Source<T>) {
        assert_eq!(self.length, source.length, "assign: other shapes");
        // SAFETY: both places hold so many values; the rest is promised.
        unsafe { ptr::copy(source.at, self.at, self.length) };
    }
}

/// Where the values of a contiguous tensor stand, and how many there are.
fn place(x: &FlexTensor) -> (usize, usize) {
    assert!(
        x.is_contiguous(),
        "only whole tensors and rows of them have a place"
    );
    let (offset, length) = (x.layout().start_offset(), x.layout().num_elements());
    let bytes = &x.bytes()[offset * size_of::<u32>()..][..length * size_of::<u32>()];
    let address = bytes.as_ptr().expose_provenance();
    assert!(
        address.is_multiple_of(align_of::<u32>()),
        "values of 32 bits stand at multiples of 4"
    );
    (address, length)
}

pub(super) fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    let x = x.try_into_primitive::<Flex>();
    x.expect("`computes_on` has looked at the device")
}

fn integers(x: Tensor<1, Int>) -> FlexTensor {
    let x = x.try_into_primitive::<Flex>();
    let x = x.expect("integers live where the floats do");
    assert_eq!(x.dtype(), DType::I32, "rows are counted in i32");
    x
}

fn tensor<const D: usize>(x: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(x)
}
