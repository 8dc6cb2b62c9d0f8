// Run a program of an exported folder in C++, on the example that lies beside it, and compare the results.
//
//     bash build_check_part.sh && ./check_part FOLDER/unet/network
//
// The wheel of paddle ships the headers of `paddle::jit`, which this is written for, and none of Paddle Inference.
// `paddle::jit` runs the same program and parameters, but without oneDNN: as slowly as paddle's layers.
// Exit code: 0 where they agree, 1 where they do not, 2 for errors.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "paddle/fluid/pir/dialect/operator/ir/op_dialect.h"
#include "paddle/jit/all.h"
#include "paddle/phi/api/all.h"
#include "paddle/pir/include/core/builtin_dialect.h"

namespace paddle {
namespace framework {  // what importing paddle calls in Python; exported by the library and in no header of the wheel
void InitMemoryMethod();
void InitDevices();
}  // namespace framework
}  // namespace paddle

constexpr double kTolerance = 1e-4;  // largest difference over the largest value

template <typename T>
T Read(const std::string& bytes, size_t place) {
  T value;
  if (place + sizeof(T) > bytes.size()) throw std::runtime_error("the example is cut short");
  std::memcpy(&value, bytes.data() + place, sizeof(T));
  return value;
}

// An array of numpy's format 1.0: magic, length of the header, a header such as
// {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, the data.
paddle::Tensor ReadArray(const std::string& bytes, size_t place) {
  const size_t length = Read<uint16_t>(bytes, place + 8);
  const std::string header = bytes.substr(place + 10, length);
  if (header.find("'fortran_order': False") == std::string::npos) throw std::runtime_error("no C order: " + header);
  const bool floats = header.find("'<f4'") != std::string::npos;
  if (!floats && header.find("'<i8'") == std::string::npos) throw std::runtime_error("neither <f4 nor <i8: " + header);
  std::vector<int64_t> shape;
  size_t count = 1;
  const char* next = header.c_str() + header.find("'shape': (") + std::strlen("'shape': (");
  for (char* end; *next != ')'; next = end + std::strspn(end, ", ")) {
    shape.push_back(std::strtoll(next, &end, 10));
    count *= shape.back();
  }
  const auto type = floats ? paddle::DataType::FLOAT32 : paddle::DataType::INT64;
  paddle::Tensor tensor = paddle::empty(shape, type, phi::CPUPlace());
  const size_t begin = place + 10 + length, size = count * (floats ? sizeof(float) : sizeof(int64_t));
  if (begin + size > bytes.size()) throw std::runtime_error("the example is cut short");
  std::memcpy(tensor.data(), bytes.data() + begin, size);
  return tensor;
}

// The arrays of an .npz that `numpy.savez` wrote, in its order: entries of a zip archive, none of them compressed. Their
// sizes are in the directory at its end.
std::vector<std::pair<std::string, paddle::Tensor>> ReadExample(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot open " + file);
  const std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  const size_t end = bytes.rfind("PK\x05\x06");
  if (end == std::string::npos) throw std::runtime_error(file + " is no zip archive");
  size_t place = Read<uint32_t>(bytes, end + 16);
  std::vector<std::pair<std::string, paddle::Tensor>> arrays;
  for (int left = Read<uint16_t>(bytes, end + 10); left > 0; --left) {
    if (Read<uint16_t>(bytes, place + 10) != 0) throw std::runtime_error(file + " is compressed");
    const size_t name = Read<uint16_t>(bytes, place + 28), extra = Read<uint16_t>(bytes, place + 30);
    const size_t comment = Read<uint16_t>(bytes, place + 32), local = Read<uint32_t>(bytes, place + 42);
    const size_t data = local + 30 + Read<uint16_t>(bytes, local + 26) + Read<uint16_t>(bytes, local + 28);
    arrays.emplace_back(bytes.substr(place + 46, name - std::strlen(".npy")), ReadArray(bytes, data));
    place += 46 + name + extra + comment;
  }
  return arrays;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER/COMPONENT/PART, such as exported/unet/network\n", argv[0]);
    return 2;
  }
  try {
    paddle::framework::InitMemoryMethod();
    paddle::framework::InitDevices();
    pir::IrContext::Instance()->GetOrRegisterDialect<pir::BuiltinDialect>();
    pir::IrContext::Instance()->GetOrRegisterDialect<paddle::dialect::OperatorDialect>();

    const std::string part = argv[1];
    std::vector<paddle::Tensor> inputs;
    paddle::Tensor wanted;
    for (const auto& [name, tensor] : ReadExample(part + ".npz")) {
      if (name == "result") {
        wanted = tensor;
      } else {
        inputs.push_back(tensor);
      }
    }
    paddle::jit::Layer layer = paddle::jit::Load(part, phi::CPUPlace());  // part.json and part.pdiparams
    const auto start = std::chrono::steady_clock::now();
    const paddle::Tensor got = layer.forward(inputs).at(0);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

    if (got.shape() != wanted.shape()) throw std::runtime_error("the result has another shape");
    double worst = 0, scale = 0;
    for (int64_t i = 0; i < wanted.numel(); ++i) {
      if (!std::isfinite(got.data<float>()[i])) throw std::runtime_error("the result is not finite");
      worst = std::max(worst, static_cast<double>(std::abs(got.data<float>()[i] - wanted.data<float>()[i])));
      scale = std::max(scale, static_cast<double>(std::abs(wanted.data<float>()[i])));
    }
    std::printf("%s: differs by %.1e, %.3f s\n", argv[1], worst / scale, seconds.count());
    return worst / scale <= kTolerance ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
