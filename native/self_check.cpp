#include "self_check.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <vector>

namespace rowspan {

namespace {

constexpr unsigned kSeconds = 5;  // it takes a millisecond
constexpr size_t kTokens = 43, kRows = 45, kColumns = 544;  // no whole tiles, panels or strips

std::vector<float> products(const Kernels& kernels, Form form, const Matrix& w, const std::vector<float>& x) {
    Barrier barrier;
    const Team alone = {0, 1, barrier};
    const uint32_t step = 0;
    Tasks tasks(alone.count, step);
    constexpr std::align_val_t kAlign{64};
    const auto release = [](void* memory) { operator delete(memory, kAlign); };
    const Products& of_form = kernels.products(form);
    const std::unique_ptr<void, decltype(release)> packed(operator new(of_form.bytes(kTokens, kColumns), kAlign),
                                                          release);
    std::vector<float> y(kTokens * kRows);
    of_form.pack(x.data(), kTokens, kColumns, packed.get(),
                 {0, (kTokens + kernels.token_tile - 1) / kernels.token_tile});
    of_form.linear(packed.get(), kTokens, {w, nullptr, {}, nullptr, nullptr, nullptr, y.data(), kRows}, alone, tasks);
    return y;
}

bool same_bits(const std::vector<float>& y, const std::vector<float>& expected) {
    return std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0;
}

constexpr size_t kElements = (kRows + kPanel - 1) / kPanel * kPanel * kColumns;

bool same_int8(const Kernels& kernels, const Kernels& proven) {
    std::minstd_rand random;
    std::vector<float> x(kTokens * kColumns);
    for (float& value : x) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
    std::vector<uint8_t> codes(kElements);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random());

    for (const size_t group : {16, 32}) {
        std::vector<uint16_t> scales(kElements / group);
        for (uint16_t& scale : scales) scale = static_cast<uint16_t>(0x2c00 + random() % 1024);  // 1/16 … 1/8
        const bool bytes = group == 32;  // as in Q8_0; else as in Q6_K
        const Matrix w{bytes ? Codes::u8 : Codes::u6, codes.data(), scales.data(), nullptr, nullptr, nullptr,
                       nullptr, nullptr, kRows, kColumns, group, bytes ? 128 : 32};
        if (!same_bits(products(kernels, Form::int8, w, x), products(proven, Form::int8, w, x))) return false;
    }
    return true;
}

// Of small whole numbers, whose sums are exact in any order, and so those of float products.
bool same_bfloats(const Kernels& kernels, const Kernels& proven) {
    static_assert(kColumns % kBfloatColumns == 0);
    std::minstd_rand random;
    const auto number = [&] { return static_cast<float>(random() % 17) - 8.0f; };
    std::vector<float> x(kTokens * kColumns);
    for (float& value : x) value = number();
    std::vector<uint16_t> codes(kElements);
    for (uint16_t& code : codes) {
        const float value = number();
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        code = static_cast<uint16_t>(bits >> 16);
    }
    const Matrix w{Codes::bf16, codes.data(), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, kRows, kColumns, 1, 0};
    return same_bits(products(kernels, Form::bfloats, w, x), products(proven, Form::floats, w, x));
}

bool same(const Kernels& kernels, const Kernels& proven, std::initializer_list<Form> forms) {
    for (const Form form : forms)
        if (!(form == Form::bfloats ? same_bfloats : same_int8)(kernels, proven)) return false;
    return true;
}

}  // namespace

bool same_products(const Kernels& kernels, const Kernels& proven, std::initializer_list<Form> forms) {
    const pid_t child = fork();
    if (child < 0) return false;
    if (child == 0) {
        for (const int fatal : {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGALRM}) std::signal(fatal, SIG_DFL);
        alarm(kSeconds);
        _exit(same(kernels, proven, forms) ? 0 : 1);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return false;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace rowspan
