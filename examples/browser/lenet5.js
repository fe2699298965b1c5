// LeNet-5 in plain arithmetic, over the tensors of a decoded file: what metaq.experiments.models.LeNet5 computes.

const MEAN = 0.1307, DEVIATION = 0.3081;  // of MNIST's pixels

/** What the network makes of 28 x 28 pixels from 0 to 1: the first layer's maps, and a probability for each digit. */
export function lenet5(tensors, pixels) {
  const of = (name) => tensors.get(name).data;
  const image = Float32Array.from(pixels, (pixel) => (pixel - MEAN) / DEVIATION);
  const maps = convolved(image, 1, 28, of('conv1.weight'), of('conv1.bias'), 5);
  let hidden = convolved(pooled(maps, 6, 24), 6, 12, of('conv2.weight'), of('conv2.bias'), 5);
  hidden = pooled(hidden, 16, 8);
  hidden = linear(hidden, of('fc1.weight'), of('fc1.bias')).map(relu);
  hidden = linear(hidden, of('fc2.weight'), of('fc2.bias')).map(relu);
  return { maps, probabilities: softmax(linear(hidden, of('fc3.weight'), of('fc3.bias'))) };
}

const relu = (value) => Math.max(0, value);

// Filters of side x side over channels of size x size, without padding, then ReLU.
function convolved(input, channels, size, weight, bias, side) {
  const outputs = bias.length, outSize = size - side + 1;
  const result = new Float32Array(outputs * outSize * outSize);
  for (let output = 0, at = 0; output < outputs; ++output) {
    for (let y = 0; y < outSize; ++y) {
      for (let x = 0; x < outSize; ++x, ++at) {
        let sum = bias[output], k = output * channels * side * side;
        for (let channel = 0; channel < channels; ++channel) {
          for (let dy = 0; dy < side; ++dy) {
            const row = (channel * size + y + dy) * size + x;
            for (let dx = 0; dx < side; ++dx) sum += weight[k++] * input[row + dx];
          }
        }
        result[at] = relu(sum);
      }
    }
  }
  return result;
}

// Means of squares of 2 x 2.
function pooled(input, channels, size) {
  const half = size / 2, result = new Float32Array(channels * half * half);
  for (let channel = 0, at = 0; channel < channels; ++channel) {
    for (let y = 0; y < half; ++y) {
      for (let x = 0; x < half; ++x, ++at) {
        const first = (channel * size + 2 * y) * size + 2 * x;
        result[at] = (input[first] + input[first + 1] + input[first + size] + input[first + size + 1]) / 4;
      }
    }
  }
  return result;
}

function linear(input, weight, bias) {
  return bias.map((start, row) => {
    let sum = start;
    for (let i = 0; i < input.length; ++i) sum += weight[row * input.length + i] * input[i];
    return sum;
  });
}

function softmax(logits) {
  const most = Math.max(...logits), powers = Array.from(logits, (logit) => Math.exp(logit - most));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}
