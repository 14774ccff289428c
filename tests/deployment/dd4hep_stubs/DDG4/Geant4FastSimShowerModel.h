// Stub of DDG4's header: what a shower model may use of its base class, written from its documented interface (2025).
#pragma once
#include <cstdarg>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

class G4Region;
class G4VFastSimulationModel;

namespace dd4hep_stub {
template <class Action>
class Declared {
public:
    Action action{nullptr, "declared"};
};
}  // namespace dd4hep_stub

namespace dd4hep::sim {

class Geant4Context;
class Geant4DetectorConstructionContext;

class Geant4FastSimShowerModel {
public:
    Geant4FastSimShowerModel(Geant4Context*, const std::string& name) : name_(name) {
        declareProperty("RegionName", m_regionName);
        declareProperty("Enable", m_enable);
    }
    virtual ~Geant4FastSimShowerModel() = default;
    const std::string& name() const { return name_; }
    virtual void constructSensitives(Geant4DetectorConstructionContext*) {}

    // Of the stub: what a steering file would set.
    template <class T>
    void set(const std::string& property, const T& value) {
        T* place = static_cast<T*>(properties_.at(property));
        *place = value;
    }
    G4VFastSimulationModel* model() const { return m_model; }
    G4Region* added = nullptr;
    std::map<std::string, G4Region*> regions;

protected:
    std::string m_regionName = "Region-name-not-specified";
    bool m_enable = false;
    G4VFastSimulationModel* m_model = nullptr;

    template <class T>
    Geant4FastSimShowerModel& declareProperty(const std::string& property, T& value) {
        properties_[property] = &value;
        return *this;
    }
    G4Region* getRegion(const std::string& region) const { return regions.at(region); }
    void addShowerModel(G4Region* region) { added = region; }
    void except(const char* format, ...) const {
        char text[512];
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        throw std::runtime_error(text);
    }

private:
    std::string name_;
    std::map<std::string, void*> properties_;
};

}  // namespace dd4hep::sim
