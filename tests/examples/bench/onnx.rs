//! The shipped network as ONNX: the same weights and layers, for somebody else's engine.
//!
//! The graph is what PyTorch's exporter makes of such a network: a group normalisation is an instance
//! normalisation of reshaped channels, SiLU a sigmoid and a product. Timestep and label enter as the
//! row of shifts that we keep in a table too, so that nobody is timed for an embedding.

use std::{error::Error, fs, path::Path};

use burn::{module::Module, tensor::DType};
use burn_pack::Reader;
use fashion_ddpm::{
    Garment, UNetConfig,
    noise::gaussian_batch,
    weights::{self, Index, Weights},
};
use fashion_ddpm_tests::values;
use serde_json::{Value, json};

/// The default weights' network.
pub struct Exported {
    /// As an ONNX file.
    pub model: Vec<u8>,
    /// An input, with our own answer to it.
    pub question: Value,
    /// The weights' entry in the index.
    pub entry: Value,
    /// The weights themselves.
    pub weights: Weights,
}

/// Reads the default weights of a page.
///
/// # Errors
/// Where they cannot be read.
pub fn exported(page: &Path) -> Result<Exported, Box<dyn Error>> {
    let device = kernels::cpu();
    let folder = page.join("weights");
    let index: Index = serde_json::from_slice(&fs::read(folder.join("index.json"))?)?;
    let file = fs::read(folder.join(&index.default))?;
    let weights = weights::decode(&file, &device)?;
    let record = Reader::from_bytes(weights.unet.clone().into_record().into_bytes()?)?;
    let mut graph = Graph::default();
    for tensor in record.into_tensors()? {
        assert_eq!(tensor.dtype, DType::F32, "a network in memory is f32");
        let shape: Vec<i64> = tensor.shape.iter().map(|&n| n as i64).collect();
        // The embedding stays behind.
        if !tensor.name.starts_with("embed_") {
            graph.constant(&tensor.name, 1, &shape, &tensor.to_bytes()?);
            graph.sizes.push((tensor.name.clone(), shape));
        }
    }
    let prediction = graph.unet(&weights.metadata.config);

    let t = 500;
    let x = gaussian_batch(1, 0..1, 0, t, &device);
    let shifts = weights.unet.shifts(&[t], &[Some(Garment::Coat)]);
    let [_, channels] = shifts.dims();
    let answer = weights.unet.forward_shifted(x.clone(), shifts.clone());
    let question = json!({ "t": t, "x": values(x), "shifts": values(shifts),
        "answer": values(answer) });
    Ok(Exported {
        model: graph.model(&prediction, channels as i64),
        question,
        entry: json!({ "file": index.default, "bytes": file.len() }),
        weights,
    })
}

/// A graph in the making, in ONNX's own bytes: fields 1 and 5 of a `GraphProto`.
#[derive(Default)]
struct Graph {
    bytes: Message,
    sizes: Vec<(String, Vec<i64>)>,
    nodes: usize,
    /// Channels of the blocks so far.
    shifts: i64,
}

impl Graph {
    fn unet(&mut self, config: &UNetConfig) -> String {
        let r = config.pixel_unshuffle as i64;
        let side = config.image_size as i64 / r;
        let x = self.reshape("x", &[-1, 1, side, r, side, r]);
        let x = self.transpose(&x, &[0, 1, 3, 5, 2, 4]);
        let x = self.reshape(&x, &[-1, r * r, side, side]);
        let mut x = self.conv("stem", &x, 1);
        let mut skips = Vec::new();
        let mut side = side;
        for level in 0..config.channels.len() {
            for block in 0..config.blocks {
                x = self.block(&format!("down.{level}.blocks.{block}"), &x, side, config);
                skips.push(x.clone());
            }
            if level + 1 < config.channels.len() {
                x = self.conv(&format!("down.{level}.resample"), &x, 2);
                side /= 2;
            }
        }
        for block in 0..2 {
            x = self.block(&format!("middle.{block}"), &x, side, config);
        }
        for level in 0..config.channels.len() {
            for block in 0..config.blocks {
                let skip = skips.pop().expect("as many ways up as down");
                let both = self.node("Concat", &[&x, &skip], &[int("axis", 1)]);
                x = self.block(&format!("up.{level}.blocks.{block}"), &both, side, config);
            }
            if level + 1 < config.channels.len() {
                let attributes = [
                    string("mode", "nearest"),
                    string("coordinate_transformation_mode", "asymmetric"),
                    string("nearest_mode", "floor"),
                ];
                let scales = [1f32, 1.0, 2.0, 2.0].map(f32::to_le_bytes).concat();
                let name = format!("scales.{}", self.nodes);
                self.constant(&name, 1, &[4], &scales);
                x = self.node("Resize", &[&x, "", &name], &attributes);
                x = self.conv(&format!("up.{level}.resample"), &x, 1);
                side *= 2;
            }
        }
        let x = self.norm("head_norm", &x, side, config);
        let x = self.silu(&x);
        let x = self.conv("head", &x, 1);
        let x = self.reshape(&x, &[-1, 1, r, r, side, side]);
        let x = self.transpose(&x, &[0, 1, 4, 2, 5, 3]);
        self.reshape(&x, &[-1, 1, side * r, side * r])
    }

    fn block(&mut self, name: &str, x: &str, side: i64, config: &UNetConfig) -> String {
        let h = self.norm(&format!("{name}.norm_in"), x, side, config);
        let h = self.silu(&h);
        let h = self.conv(&format!("{name}.conv_in"), &h, 1);
        let channels = self.size(&format!("{name}.conv_in.weight"))[0];
        let shift = self.columns("shifts", self.shifts, channels);
        self.shifts += channels;
        let shift = self.reshape(&shift, &[1, channels, 1, 1]);
        let h = self.node("Add", &[&h, &shift], &[]);
        let h = self.norm(&format!("{name}.norm_out"), &h, side, config);
        let h = self.silu(&h);
        let h = self.conv(&format!("{name}.conv_out"), &h, 1);
        let skip = format!("{name}.skip");
        let x = match self.has(&format!("{skip}.weight")) {
            true => self.conv(&skip, x, 1),
            false => x.to_owned(),
        };
        let x = self.node("Add", &[&x, &h], &[]);
        match self.has(&format!("{name}.attention.qkv.weight")) {
            true => self.attention(&format!("{name}.attention"), &x, side, channels, config),
            false => x,
        }
    }

    fn attention(
        &mut self,
        name: &str,
        x: &str,
        side: i64,
        channels: i64,
        config: &UNetConfig,
    ) -> String {
        let normal = self.norm(&format!("{name}.norm"), x, side, config);
        let qkv = self.conv(&format!("{name}.qkv"), &normal, 1);
        let qkv = self.reshape(&qkv, &[-1, 3 * channels, side * side]);
        let [q, k, v] = [0, 1, 2].map(|i| self.columns(&qkv, i * channels, channels));
        let q = self.transpose(&q, &[0, 2, 1]);
        let scores = self.node("MatMul", &[&q, &k], &[]);
        let scale = format!("scale.{}", self.nodes);
        let value = 1.0 / (channels as f32).sqrt();
        self.constant(&scale, 1, &[], &value.to_le_bytes());
        let scores = self.node("Mul", &[&scores, &scale], &[]);
        let shares = self.node("Softmax", &[&scores], &[int("axis", -1)]);
        let shares = self.transpose(&shares, &[0, 2, 1]);
        let mixed = self.node("MatMul", &[&v, &shares], &[]);
        let mixed = self.reshape(&mixed, &[-1, channels, side, side]);
        let out = self.conv(&format!("{name}.out"), &mixed, 1);
        self.node("Add", &[x, &out], &[])
    }

    fn norm(&mut self, name: &str, x: &str, side: i64, config: &UNetConfig) -> String {
        let groups = config.groups as i64;
        let channels = self.size(&format!("{name}.gamma"))[0];
        let grouped = self.reshape(x, &[-1, groups, channels / groups * side * side]);
        let (ones, zeros) = (
            format!("ones.{}", self.nodes),
            format!("zeros.{}", self.nodes),
        );
        self.constant(
            &ones,
            1,
            &[groups],
            &1f32.to_le_bytes().repeat(config.groups),
        );
        self.constant(
            &zeros,
            1,
            &[groups],
            &0f32.to_le_bytes().repeat(config.groups),
        );
        let normal = self.node(
            "InstanceNormalization",
            &[&grouped, &ones, &zeros],
            &[float("epsilon", 1e-5)],
        );
        let normal = self.reshape(&normal, &[-1, channels, side, side]);
        let gamma = self.reshape(&format!("{name}.gamma"), &[1, channels, 1, 1]);
        let beta = self.reshape(&format!("{name}.beta"), &[1, channels, 1, 1]);
        let scaled = self.node("Mul", &[&normal, &gamma], &[]);
        self.node("Add", &[&scaled, &beta], &[])
    }

    fn silu(&mut self, x: &str) -> String {
        let gate = self.node("Sigmoid", &[x], &[]);
        self.node("Mul", &[x, &gate], &[])
    }

    fn conv(&mut self, name: &str, x: &str, stride: i64) -> String {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let kernel = self.size(&weight)[2];
        let attributes = [
            ints("kernel_shape", &[kernel; 2]),
            ints("pads", &[kernel / 2; 4]),
            ints("strides", &[stride; 2]),
        ];
        self.node("Conv", &[x, &weight, &bias], &attributes)
    }

    /// Some entries of the second dimension.
    fn columns(&mut self, x: &str, first: i64, count: i64) -> String {
        let bounds = [("from", first), ("to", first + count), ("axis", 1)];
        let names = bounds.map(|(word, value)| {
            let name = format!("{word}.{}", self.nodes);
            self.constant(&name, 7, &[1], &value.to_le_bytes());
            name
        });
        let [from, to, axis] = &names;
        self.node("Slice", &[x, from, to, axis], &[])
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let name = format!("shape.{}", self.nodes);
        let bytes: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(&name, 7, &[shape.len() as i64], &bytes);
        self.node("Reshape", &[x, &name], &[])
    }

    fn transpose(&mut self, x: &str, order: &[i64]) -> String {
        self.node("Transpose", &[x], &[ints("perm", order)])
    }

    fn size(&self, name: &str) -> &[i64] {
        let found = self.sizes.iter().find(|(known, _)| known == name);
        &found
            .unwrap_or_else(|| panic!("the record has no {name}"))
            .1
    }

    fn has(&self, name: &str) -> bool {
        self.sizes.iter().any(|(known, _)| known == name)
    }

    /// Adds a `NodeProto`; the answer is its only output.
    fn node(&mut self, kind: &str, inputs: &[&str], attributes: &[Message]) -> String {
        let output = format!("y.{}", self.nodes);
        self.nodes += 1;
        let mut node = Message::default();
        for input in inputs {
            node.text(1, input);
        }
        node.text(2, &output);
        node.text(3, &output);
        node.text(4, kind);
        for attribute in attributes {
            node.message(5, attribute);
        }
        self.bytes.message(1, &node);
        output
    }

    /// Adds an initializer, a `TensorProto`; type 1 is f32, 7 is i64.
    fn constant(&mut self, name: &str, kind: u64, shape: &[i64], values: &[u8]) {
        let mut tensor = Message::default();
        for &size in shape {
            tensor.number(1, size as u64);
        }
        tensor.number(2, kind);
        tensor.text(8, name);
        tensor.bytes(9, values);
        self.bytes.message(5, &tensor);
    }

    /// The whole `ModelProto`.
    fn model(&self, prediction: &str, channels: i64) -> Vec<u8> {
        let mut graph = Message(self.bytes.0.clone());
        graph.text(2, "unet");
        let images = [None, Some(1), Some(28), Some(28)];
        graph.message(11, &value("x", &images));
        graph.message(11, &value("shifts", &[Some(1), Some(channels)]));
        graph.message(12, &value(prediction, &images));
        let mut opset = Message::default();
        opset.text(1, "");
        opset.number(2, 17);
        let mut model = Message::default();
        model.number(1, 8);
        model.text(2, "fashion-ddpm");
        model.message(7, &graph);
        model.message(8, &opset);
        model.0
    }
}

/// A `ValueInfoProto` of f32; the size that is none is the batch.
fn value(name: &str, shape: &[Option<i64>]) -> Message {
    let mut dimensions = Message::default();
    for size in shape {
        let mut dimension = Message::default();
        match size {
            Some(size) => dimension.number(1, *size as u64),
            None => dimension.text(2, "batch"),
        }
        dimensions.message(1, &dimension);
    }
    let mut tensor = Message::default();
    tensor.number(1, 1);
    tensor.message(2, &dimensions);
    let mut kind = Message::default();
    kind.message(1, &tensor);
    let mut value = Message::default();
    value.text(1, name);
    value.message(2, &kind);
    value
}

fn attribute(name: &str, kind: u64) -> Message {
    let mut attribute = Message::default();
    attribute.text(1, name);
    attribute.number(20, kind);
    attribute
}

fn float(name: &str, value: f32) -> Message {
    let mut attribute = attribute(name, 1);
    attribute.key(2, 5);
    attribute.0.extend(value.to_le_bytes());
    attribute
}

fn int(name: &str, value: i64) -> Message {
    let mut attribute = attribute(name, 2);
    attribute.number(3, value as u64);
    attribute
}

fn string(name: &str, value: &str) -> Message {
    let mut attribute = attribute(name, 3);
    attribute.text(4, value);
    attribute
}

fn ints(name: &str, values: &[i64]) -> Message {
    let mut attribute = attribute(name, 7);
    for &value in values {
        attribute.number(8, value as u64);
    }
    attribute
}

/// A message in Protocol Buffers' wire format.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn message(&mut self, field: u64, value: &Self) {
        self.bytes(field, &value.0);
    }
}
